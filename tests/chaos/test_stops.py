"""Runs that are told to stop: what they learnt is saved, and they go on to the same numbers."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.numpy import load_file

from tests.chaos.conftest import FEW_ROLES, ONLINE, Run, metrics
from tests.chaos.gate import Gate
from tests.chaos.test_runs import figures


def test_an_interrupted_run_continues_to_the_same_numbers(
    launch: Callable[..., Run], undisturbed: Path, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate", tmp_path / "run")
    # No checkpoints are asked for: the stop alone saves one.
    command = (f"output={tmp_path / 'run'}", *ONLINE, *gate.overrides)
    run = launch(*command)
    run.wait_until(gate.holds)
    os.killpg(run.process.pid, signal.SIGINT)  # as from a terminal, to every process of the run
    assert run.wait() == 130, run.log.read_text()
    run.wait_for_no_process()
    log = run.log.read_text()
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert f"stopped: {saved} is saved, the same command continues from it" in log
    assert "Traceback" not in log
    assert saved.name == f"step-{len(metrics(tmp_path / 'run')):06d}"

    gate.open()
    resumed = launch(*command)
    assert resumed.wait() == 0, resumed.log.read_text()
    assert f"continuing from {saved}" in resumed.log.read_text()
    assert figures(tmp_path / "run") == figures(undisturbed)
    expected, found = (load_file(each / "model" / "model.safetensors") for each in (undisturbed, tmp_path / "run"))
    assert all((expected[name] == found[name]).all() for name in expected)


def test_a_second_interrupt_quits_at_once(launch: Callable[..., Run], tmp_path: Path) -> None:
    """The step under way is sampling with a reward that takes ten minutes: neither signal waits for it."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import pathlib, time\n"
        f"MARK = pathlib.Path({str(tmp_path / 'asked')!r})\n"
        "def slow(prompt, rollout):\n"
        "    if rollout.text == prompt.meta['answer']:\n"  # the row's own answer, scored before Ray starts
        "        return 1.0\n"
        "    MARK.touch()\n"
        "    time.sleep(600)\n"
        "    return 1.0\n"
    )
    run = launch(f"output={tmp_path / 'run'}", f"reward.functions=[{slow}:slow]", "reward.timeout_s=900",
                 *FEW_ROLES)  # fmt: skip
    run.wait_until(lambda: (tmp_path / "asked").exists())
    start = time.monotonic()
    os.kill(run.process.pid, signal.SIGINT)
    os.kill(run.process.pid, signal.SIGINT)
    assert run.wait() == 130, run.log.read_text()
    assert time.monotonic() - start < 300, "it waited for the rollouts"
    run.wait_for_no_process()
    assert not (tmp_path / "run" / "checkpoints").exists()
