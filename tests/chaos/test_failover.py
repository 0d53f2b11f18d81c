"""Engines and a reward worker that are killed during a run, which ends as if nothing had happened."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import load_file

from rlhf.config import OnlineConfig
from tests.chaos.conftest import Run, metrics
from tests.chaos.gate import LEAST_STEPS, Gate
from tests.chaos.test_runs import figures

RECIPE = (
    "sampler.num_engines=2", "placement.policy=1", "algorithm.kl_coef=0.0", "seed=3", "log.tensorboard=false",
    "log.groups_per_step=4", "validation.num_prompts=1", f"train.num_steps={LEAST_STEPS}",
)  # fmt: skip


def trained_prompts(folder: Path) -> Counter[tuple[int, str]]:
    """Rollouts by step and prompt."""
    lines = map(json.loads, (folder / "rollouts.jsonl").read_text().splitlines())
    return Counter((line["step"], line["prompt_id"]) for line in lines)


def test_a_run_whose_engines_and_reward_worker_die_equals_an_undisturbed_one(
    launch: Callable[..., Run],
    cluster: None,
    compose: Callable[..., OnlineConfig],
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    """One engine of two dies while it samples, then the other before the first is back, and the reward worker."""
    from rlhf.stages.online import run as online

    recipe = (*RECIPE, f"reward.model={models['judge']}")
    gate = Gate(tmp_path / "gate", tmp_path / "faulted")
    run = launch(f"output={tmp_path / 'faulted'}", *recipe, *gate.overrides)
    run.wait_until(gate.holds)
    engines = sorted(pid for pid, command in run.descendants().items() if "ray::SamplerWorker" in command)
    assert len(engines) == 2
    for count, pid in enumerate(engines, 1):
        os.kill(pid, signal.SIGKILL)
        run.wait_until(lambda count=count: run.log.read_text().count("and it is started again") == count)
    os.kill(run.worker("ray::RewardModelWorker"), signal.SIGKILL)
    gate.open()
    assert run.wait() == 0, run.log.read_text()
    run.wait_for_no_process()
    said = " ".join(run.log.read_text().split())
    assert said.count("samples again after") == 2
    assert said.count("was started again; its requests were repeated") == 1
    last = metrics(tmp_path / "faulted")[-1]
    assert (last["restarts/sampler"], last["restarts/reward"], last["restarts/policy"]) == (2, 1, 0)

    online.run(compose(f"output={tmp_path / 'whole'}", *recipe))
    assert figures(tmp_path / "faulted") == figures(tmp_path / "whole")
    assert all(row["reward/reward_model"] for row in metrics(tmp_path / "faulted"))
    trained = trained_prompts(tmp_path / "faulted")
    assert trained == trained_prompts(tmp_path / "whole")
    assert len(trained) == 4 * LEAST_STEPS
    assert set(trained.values()) == {4}
    expected, found = (load_file(tmp_path / each / "model" / "model.safetensors") for each in ("whole", "faulted"))
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)
