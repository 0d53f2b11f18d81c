"""Sweeps on this machine and as Ray jobs, killed or interrupted in the middle, and continued by the same command."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.conftest import Run, metrics
from tests.chaos.head import Head
from tests.e2e.conftest import SMALL_RUN

FAULTY = Path(__file__).parent / "faulty_rewards.py"
DIGITS = Path(__file__).parents[1] / "e2e" / "rewards.py"
SMALL = ("placement.policy=1", "train.num_steps=2", "validation.num_prompts=1", "log.tensorboard=false")


def sweep_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The members by what is swept, in the order of its keys."""
    path = folder / "sweep.json"
    members = json.loads(path.read_text())["members"] if path.is_file() else []
    return {" ".join(member["swept"][key] for key in sorted(member["swept"])): member for member in members}


def states(folder: Path) -> dict[str, str]:
    return {name: member["state"] for name, member in sweep_of(folder).items()}


def test_a_killed_multirun_of_two_by_two_continues_past_failures(launch: Callable[..., Run], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    command = (f"output={folder}", "algorithm.clip_low=7.0,0.2", "algorithm.kl_coef=0.0,0.1", *SMALL, "-m")
    killed = launch(*command)
    killed.wait_until(lambda: states(folder).get("0.2 0.1") == "running")
    assert states(folder) == {"7.0 0.0": "failed", "7.0 0.1": "failed", "0.2 0.0": "done", "0.2 0.1": "running"}
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.wait_for_no_process(but=("ray::DashboardAgent", "ray::RuntimeEnvAgent"))
    finished = folder / "algorithm.clip_low-0.2__algorithm.kl_coef-0.0"
    written = (finished / "metrics.jsonl").stat().st_mtime_ns

    resumed = launch(*command)
    assert resumed.wait() == 4, resumed.log.read_text()
    resumed.wait_for_no_process()
    assert (finished / "metrics.jsonl").stat().st_mtime_ns == written
    assert states(folder) == {"7.0 0.0": "failed", "7.0 0.1": "failed", "0.2 0.0": "done", "0.2 0.1": "done"}
    assert "2 of 4 members failed, the first with: algorithm.clip_low=7.0: must lie" in resumed.errors()[-1]
    for name in ("0.0", "0.1"):
        member = folder / f"algorithm.clip_low-0.2__algorithm.kl_coef-{name}"
        assert len(metrics(member)) == 2
        assert (member / "model" / "model.safetensors").is_file()
    rows = [line.split(" | ") for line in (folder / "sweep.md").read_text().splitlines() if line.startswith("| ")]
    assert sorted(row[2:4] for row in rows[2:]) == [["done", "2"]] * 2 + [["failed", "0"]] * 2
    assert (folder / "sweep.png").is_file()


def test_jobs_outlive_an_interrupted_sweep_which_finds_them_again(
    launch: Callable[..., Run], head: Head, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    rewards = f"reward.functions=[{DIGITS}:digits],[{FAULTY}:unless_right]"
    command = (
        "sweep.max_concurrent=2",
        "sweep.poll_s=0.5",
        f"output={folder}",
        rewards,
        "algorithm.kl_coef=0.0",
        *SMALL,
    )

    def start(*more: str) -> Run:
        recipe = [word for word in SMALL_RUN if not word.startswith("reward.functions=")]
        return launch(*command, *more, recipe=recipe, script="launch/sweep.py", env=head.environment)

    interrupted = start()
    interrupted.wait_until(lambda: interrupted.log.read_text().count(" running, job ") == 2)
    os.kill(interrupted.process.pid, signal.SIGINT)
    assert interrupted.wait() == 130, interrupted.log.read_text()
    (said,) = [line for line in interrupted.log.read_text().splitlines() if line.startswith("stopped:")]
    assert "stopped: 2 jobs keep running in the cluster, 0 members wait; the same command continues the sweep" in said
    jobs = [member["submission_id"] for member in sweep_of(folder).values()]
    assert all(job in said for job in jobs)

    resumed = start()
    assert resumed.wait() == 4, resumed.log.read_text()
    good, bad = sweep_of(folder).values()
    assert [good["submission_id"], bad["submission_id"]] == jobs
    assert (good["state"], bad["state"]) == ("done", "failed")
    assert "rollouts of this step failed" in bad["error"]
    assert "1 of 2 members failed, the first with: " in resumed.errors()[-1]
    assert good["figures"]["steps"] == 2
    assert (folder / good["name"] / "model" / "model.safetensors").is_file()
    assert (folder / "sweep.png").is_file()
    assert "Traceback" not in interrupted.log.read_text() + resumed.log.read_text()
