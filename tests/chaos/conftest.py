"""Runs of the command line that are disturbed from outside. Every wait has a deadline."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import SMALL_RUN, compose, sums

__all__ = ["compose", "sums"]
REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 150


class Run:
    """A `launch/ppo.py` process in a session of its own, with everything it starts."""

    def __init__(self, overrides: list[str], log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "launch/ppo.py", *overrides],
            cwd=REPOSITORY, stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.seen: dict[int, psutil.Process] = {}

    def descendants(self) -> list[psutil.Process]:
        if psutil.pid_exists(self.process.pid):
            found = psutil.Process(self.process.pid).children(recursive=True)
            self.seen |= {child.pid: child for child in found}
        return [child for child in self.seen.values() if child.is_running() and child.status() != "zombie"]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            self.descendants()
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)

    def wait(self) -> int:
        end = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            self.descendants()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)
        return self.process.returncode

    def wait_for_no_process(self) -> None:
        end = time.monotonic() + 60
        while left := self.descendants():
            assert time.monotonic() < end, [child.cmdline() for child in left]
            time.sleep(0.2)

    def worker(self, name: str) -> psutil.Process:
        return next(child for child in self.descendants() if name in " ".join(child.cmdline()))

    def errors(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith("error:")]


@pytest.fixture
def launch(tmp_path: Path, models: dict[str, Path], sums: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*overrides: str) -> Run:
        base = [*SMALL_RUN, f"model={models['tied']}", f"data.path={sums}"]
        runs.append(Run([*base, *overrides], tmp_path / f"run-{len(runs)}.log"))
        return runs[-1]

    yield start
    for run in runs:
        for process in [*run.descendants(), run.process]:
            if process.pid and psutil.pid_exists(process.pid):
                os.kill(process.pid, signal.SIGKILL)


def metrics(folder: Path) -> list[dict[str, Any]]:
    import json

    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
