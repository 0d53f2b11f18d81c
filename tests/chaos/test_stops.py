"""Runs that are told to stop: what they learnt is saved, and they go on to the same numbers."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.chaos.conftest import Run, metrics
from tests.chaos.test_runs import figures

pytestmark = pytest.mark.timeout(400)
RECIPE = ("train.num_steps=5", "success.num_prompts=4", "log.tensorboard=false")


def test_an_interrupted_run_continues_to_the_same_numbers(launch: Callable[..., Run], tmp_path: Path) -> None:
    whole = launch(f"output={tmp_path / 'whole'}", *RECIPE)
    assert whole.wait() == 0, whole.log.read_text()

    # No checkpoints are asked for: the stop alone saves one.
    run = launch(f"output={tmp_path / 'run'}", *RECIPE)
    run.wait_until(lambda: len(metrics(tmp_path / "run")) >= 2)
    os.killpg(run.process.pid, signal.SIGINT)  # as from a terminal, to every process of the run
    assert run.wait() == 130, run.log.read_text()
    run.wait_for_no_process()
    log = run.log.read_text()
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert f"stopped: {saved} is saved, the same command continues from it" in log
    assert "Traceback" not in log
    assert saved.name == f"step-{len(metrics(tmp_path / 'run')):06d}"

    resumed = launch(f"output={tmp_path / 'run'}", *RECIPE)
    assert resumed.wait() == 0, resumed.log.read_text()
    assert f"continuing from {saved}" in resumed.log.read_text()
    assert figures(tmp_path / "run") == figures(tmp_path / "whole")
    expected, found = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "run"))
    assert all((expected[name] == found[name]).all() for name in expected)


def test_a_second_interrupt_quits_at_once(launch: Callable[..., Run], tmp_path: Path) -> None:
    """The step under way is sampling with a reward that takes a minute: neither signal waits for it."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import pathlib, time\n"
        f"MARK = pathlib.Path({str(tmp_path / 'asked')!r})\n"
        "def slow(prompt, rollout):\n"
        "    if rollout.text == prompt.meta['answer']:\n"  # the row's own answer, scored before Ray starts
        "        return 1.0\n"
        "    MARK.touch()\n"
        "    time.sleep(60)\n"
        "    return 1.0\n"
    )
    run = launch(f"output={tmp_path / 'run'}", f"reward.functions=[{slow}:slow]", "reward.timeout_s=90")
    run.wait_until(lambda: (tmp_path / "asked").exists())
    start = time.monotonic()
    os.kill(run.process.pid, signal.SIGINT)
    os.kill(run.process.pid, signal.SIGINT)
    assert run.wait() == 130, run.log.read_text()
    assert time.monotonic() - start < 45, "it waited for the rollouts"
    run.wait_for_no_process()
    assert not (tmp_path / "run" / "checkpoints").exists()
