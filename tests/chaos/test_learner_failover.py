"""Ranks of learners and of the reference die during a run, which ends with the numbers of an undisturbed one."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from rlhf.config import OnlineConfig
from rlhf.train.tracking import read_rows
from tests.chaos.conftest import metrics
from tests.chaos.gate import LEAST_STEPS
from tests.chaos.kills import beside, kill, process_id, wait_until
from tests.chaos.test_runs import figures

RECIPE = (
    "algorithm=ppo", "algorithm.kl_target=0.01", "algorithm.kl_horizon=50", "critic.optimizer.lr=1e-3",
    f"train.num_steps={LEAST_STEPS}", "checkpoint.every=1", "validation.num_prompts=4", "log.tensorboard=false",
    "log.groups_per_step=4",
)  # fmt: skip
RESTARTS = "restarts/"


def test_dead_ranks_of_policy_and_reference_change_no_number(
    cluster: None, compose: Callable[..., OnlineConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf.stages.online import run as online

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    online.run(compose(f"output={whole}", *RECIPE))

    def kills() -> None:
        wait_until(lambda: len(metrics(killed)) >= 2)
        kill(process_id("policy-1"), during="update")
        process_id("policy-1-start-2")
        kill(process_id("reference-0"), during="compute_columns")

    with beside(kills):
        online.run(compose(f"output={killed}", *RECIPE))

    said = " ".join(capsys.readouterr().out.split())
    assert "policy worker 1 on node" in said
    assert "and the run continues from" in said
    assert "and what it was asked is asked again" in said
    rows = figures(killed)
    assert [rows[-1][f"{RESTARTS}{role}"] for role in ("policy", "critic", "reference")] == [1, 0, 1]
    undisturbed = [{k: v for k, v in row.items() if not k.startswith(RESTARTS)} for row in figures(whole)]
    assert [{k: v for k, v in row.items() if not k.startswith(RESTARTS)} for row in rows] == undisturbed
    episodes = [Counter(line["episode"] for line in read_rows(each / "rollouts.jsonl")) for each in (whole, killed)]
    assert episodes[0] == episodes[1]
    assert set(episodes[1].values()) == {1}
    for kind in ("critic", "model"):
        expected, found = (load_file(each / kind / "model.safetensors") for each in (whole, killed))
        assert expected.keys() == found.keys()
        assert all((expected[name] == found[name]).all() for name in expected)
