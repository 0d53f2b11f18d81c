"""What happens to a run when things go wrong around it."""

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors.numpy import load_file

from rlhf.config import OnlineConfig
from tests.chaos.conftest import FEW_ROLES, Run, metrics
from tests.chaos.gate import LEAST_STEPS, Gate
from tests.chaos.head import DEADLINE_S

FAULTY = Path(__file__).parent / "faulty_rewards.py"
ASKS_AGAIN = Path(__file__).parents[1] / "e2e" / "environments.py:AsksAgain"
TIMING = (
    "restarts/", "seconds/", "validation/seconds", "tokens_per_second", "busy/", "memory_bytes/", "bytes_after_",
)  # fmt: skip


def figures(folder: Path) -> list[dict[str, float]]:
    """Metrics without what the clock and dead workers say."""
    return [{k: v for k, v in row.items() if not k.startswith(TIMING)} for row in metrics(folder)]


def shared_memory() -> set[str]:
    """Without semaphores: engines that other programs kill leave theirs, 32 bytes each."""
    return {str(path) for path in Path("/dev/shm").iterdir() if not path.name.startswith("sem.")}


def unmapped(files: set[str]) -> set[str]:
    """Files that no process maps: those of whatever else runs on this machine are in use."""
    return {file for file in files if not any(file in maps for maps in memory_maps())}


def memory_maps() -> Iterator[str]:
    """What each process of this machine maps."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            yield maps.read_text()


def test_a_killed_run_continues_to_the_same_numbers(
    launch: Callable[..., Run],
    cluster: None,
    compose: Callable[..., OnlineConfig],
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    """PPO with all roles: policy, critic, optimisers, KL controller and the order of prompts go on where they were."""
    from rlhf.stages.online import run as online

    recipe = (
        "algorithm=ppo", f"reward.model={models['judge']}", "placement.colocate=[[reference,reward]]",
        "algorithm.kl_target=0.01", "algorithm.kl_horizon=50", "critic.optimizer.lr=1e-3",
        f"train.num_steps={LEAST_STEPS}", "checkpoint.every=1", "validation.num_prompts=4", "log.tensorboard=false",
    )  # fmt: skip
    online.run(compose(f"output={tmp_path / 'whole'}", *recipe))

    gate = Gate(tmp_path / "gate", tmp_path / "killed")
    command = (f"output={tmp_path / 'killed'}", *recipe, *gate.overrides)
    killed = launch(*command)
    killed.wait_until(gate.holds)
    os.kill(killed.process.pid, signal.SIGKILL)
    # Ray's agents notice late that a driver was killed with SIGKILL; whatever holds accelerators is gone.
    killed.wait_for_no_process(but=("ray::DashboardAgent", "ray::RuntimeEnvAgent"))
    gate.open()
    resumed = launch(*command)
    assert resumed.wait() == 0, resumed.log.read_text()
    assert "continuing from" in resumed.log.read_text()
    resumed.wait_for_no_process()

    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    assert all(row["reward/reward_model"] for row in metrics(tmp_path / "killed"))
    assert len({row["train/kl_coef"] for row in metrics(tmp_path / "killed")}) == LEAST_STEPS, (
        "the controller stood still"
    )
    for kind in ("critic", "model"):
        expected, found = (load_file(tmp_path / name / kind / "model.safetensors") for name in ("whole", "killed"))
        assert expected.keys() == found.keys()
        assert all((expected[name] == found[name]).all() for name in expected)
    assert len(list((tmp_path / "killed" / "checkpoints").iterdir())) == 2

    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

    critic = AutoModelForTokenClassification.from_pretrained(tmp_path / "killed" / "critic")
    assert critic.score.weight.abs().max() > 0
    assert json.loads((tmp_path / "killed" / "critic" / "manifest.json").read_text())["auto_class"] == (
        "AutoModelForTokenClassification"
    )
    newest = max((tmp_path / "killed" / "checkpoints").iterdir())
    for folder in (newest, tmp_path / "killed" / "model"):
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["auto_class"] == "AutoModelForCausalLM"
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert (model.model.embed_tokens.weight.numpy(force=True) == found["model.embed_tokens.weight"]).all()
        assert AutoTokenizer.from_pretrained(folder).chat_template


def test_a_tensor_parallel_engine_plays_episodes_of_two_rows_with_the_policy(
    launch: Callable[..., Run], tmp_path: Path
) -> None:
    before = shared_memory()
    run = launch(f"output={tmp_path / 'run'}", *FEW_ROLES, "sampler.tensor_parallel_size=2",
                 f"environment={ASKS_AGAIN}", "+environment_options.question='?'", "log.groups_per_step=4")  # fmt: skip
    assert run.wait() == 0, run.log.read_text()
    run.wait_for_no_process()
    # What others on this machine have at the moment goes again; what was left behind stays.
    end = time.monotonic() + 60
    while left := unmapped(shared_memory() - before):
        assert time.monotonic() < end, f"left behind: {left}"
        time.sleep(1)
    assert max(row["train/rollout_ratio_deviation_max"] for row in metrics(tmp_path / "run")) < 1e-5
    lines = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    rows = Counter((line["step"], line["episode"]) for line in lines)
    assert len(rows) == 3 * 4 * 4
    assert set(rows.values()) == {2}
    assert all(row["reward"] > 0 for row in metrics(tmp_path / "run"))


def test_faulty_rewards_are_failures_and_never_rewards(launch: Callable[..., Run], tmp_path: Path) -> None:
    run = launch(
        f"output={tmp_path / 'run'}", f"reward.functions=[{FAULTY}:sometimes]", "reward.timeout_s=0.5",
        "reward.num_processes=2", "stream.max_failures_per_step=200", "stream.prompts_per_step=6",
        "log.groups_per_step=6", "sampler.num_engines=2", "weight_sync.transport=gloo", *FEW_ROLES,
    )  # fmt: skip
    assert run.wait() == 0, run.log.read_text()
    run.wait_for_no_process()
    rows = metrics(tmp_path / "run")
    kinds = {kind for row in rows for kind in row if kind.startswith("failures/")}
    assert kinds == {f"failures/reward_{kind}" for kind in ("timeout", "died", "error", "invalid")}
    assert all(row["failures"] > 0 and row["train/skipped_updates"] == 0 for row in rows)
    lines = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert lines
    assert all(line["prompt_id"][-1] in "56789" and "reward" in line for line in lines)


def test_a_reward_that_fails_too_often_stops_the_run_in_one_sentence(
    launch: Callable[..., Run], tmp_path: Path
) -> None:
    run = launch(f"output={tmp_path / 'run'}", f"reward.functions=[{FAULTY}:unless_right]", *FEW_ROLES)
    assert run.wait() == 4, run.log.read_text()
    run.wait_for_no_process()
    (error,) = run.errors()
    assert "rollouts of this step failed" in error
    assert "faulty_rewards.py:unless_right: LookupError: a bug in the reward" in error
    assert "Traceback" not in run.log.read_text()


def test_a_reward_that_always_fails_stops_the_run_before_ray_starts(launch: Callable[..., Run], tmp_path: Path) -> None:
    run = launch(f"output={tmp_path / 'run'}", f"reward.functions=[{FAULTY}:always]")
    assert run.wait() == 2, run.log.read_text()
    run.wait_for_no_process()
    (error,) = run.errors()
    assert error.startswith("error: no reward for the own answers of the first 5 rows, the last: reward_error: reward ")
    assert "faulty_rewards.py:always: LookupError: a bug in the reward" in error
    assert "Started a local Ray instance" not in run.log.read_text()
    assert not (tmp_path / "run").exists()


def test_a_dead_learner_ends_the_run_in_bounded_time(launch: Callable[..., Run], tmp_path: Path) -> None:
    run = launch(f"output={tmp_path / 'run'}", "train.num_steps=100000", "validation.num_prompts=1",
                 "failover.learner_restarts=0")  # fmt: skip
    run.wait_until(lambda: len(metrics(tmp_path / "run")) >= 2)
    os.kill(run.worker("ray::LearnerWorker"), signal.SIGKILL)
    assert run.wait() == 4, run.log.read_text()
    run.wait_for_no_process()
    (error,) = run.errors()
    assert "policy worker" in error
    assert "died" in error
    assert error.endswith("failover.learner_restarts=0 leaves no restart: raise it, and resume the run")


def test_a_placement_larger_than_the_cluster_is_refused(launch: Callable[..., Run], tmp_path: Path) -> None:
    """On a machine without GPUs accelerators are pretended; a cluster that declares too few is joined by address."""
    import subprocess
    import sys

    script = (
        "import ray, sys; ray.init(address='local', num_gpus=2, num_cpus=4, include_dashboard=False);"
        "from rlhf.actors.placement import reserved; from rlhf.actors.plan import RolePlan, make_plan;"
        "from rlhf.types import RunError\n"
        "roles = [RolePlan(role='policy', num_workers=2), RolePlan(role='sampler', num_workers=1)]\n"
        "try: reserved(make_plan(roles), 5).__enter__()\n"
        "except RunError as error: print(error); sys.exit(4)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 4, done.stderr
    assert "3 accelerators are needed (policy 2 x 1, sampler 1 x 1) and the nodes have 2" in done.stdout
