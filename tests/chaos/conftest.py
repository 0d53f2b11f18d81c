"""Runs of the command line that are disturbed from outside. Every wait has a deadline."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlhf.config import OnlineConfig
from tests.chaos.head import DEADLINE_S, head
from tests.e2e.conftest import SMALL_RUN, compose, sums

__all__ = ["compose", "head", "sums"]
REPOSITORY = Path(__file__).parents[2]
POLL_S = 0.5
"""Seconds between two looks at a run; each reads all of /proc."""


class Run:
    """A `launch/ppo.py` process, or another script's, in a session of its own, with everything it starts."""

    def __init__(
        self, overrides: list[str], log: Path, script: str = "launch/ppo.py", env: dict[str, str] | None = None
    ) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, script, *overrides],
            cwd=REPOSITORY, env=env, stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True,
            # As from a terminal: what a shell starts in the background ignores it, with all that it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self.seen: dict[int, psutil.Process] = {}

    def descendants(self) -> dict[int, str]:
        """Everything this run started that still runs: pid and command line."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self.seen |= {child.pid: child for child in found}
        return {pid: name for pid, child in self.seen.items() if (name := command_of(child))}

    def wait_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            self.descendants()
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(POLL_S)

    def wait(self) -> int:
        end = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            self.descendants()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(POLL_S)
        return self.process.returncode

    def wait_for_no_process(self, *, but: tuple[str, ...] = ()) -> None:
        """`but`: how the command lines begin of processes of Ray's own that may outlive the run."""
        end = time.monotonic() + DEADLINE_S
        while left := [name for name in self.descendants().values() if not name.startswith(but)]:
            assert time.monotonic() < end, left
            time.sleep(POLL_S)

    def worker(self, name: str) -> int:
        """Process id of the first actor of that class."""
        return min(pid for pid, command in self.descendants().items() if name in command)

    def errors(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith("error:")]


def command_of(process: psutil.Process) -> str:
    """The command line, empty once the process has ended."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture
def launch(tmp_path: Path, models: dict[str, Path], sums: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*overrides: str, recipe: Sequence[str] = SMALL_RUN, **how: Any) -> Run:
        base = [*recipe, f"model={models['tied']}", f"data.path={sums}"]
        runs.append(Run([*base, *overrides], tmp_path / f"run-{len(runs)}.log", **how))
        return runs[-1]

    yield start
    for run in runs:
        for pid in [*run.descendants(), *([run.process.pid] if run.process.poll() is None else [])]:
            os.kill(pid, signal.SIGKILL)


FEW_ROLES = ("placement.policy=1", "algorithm.kl_coef=0.0", "log.tensorboard=false", "validation.num_prompts=1")
"""One rank and no reference: for what happens elsewhere, a start costs half as much."""
ONLINE = ("train.num_steps=5", "validation.num_prompts=4", "log.tensorboard=false", "seed=3", "placement.policy=1")


@pytest.fixture(scope="session")
def undisturbed(cluster: None, compose: Callable[..., OnlineConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `ONLINE` that nothing disturbed: what a stopped and continued one ends as."""
    from rlhf.stages.online import run as online

    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    online.run(compose(f"output={folder}", *ONLINE))
    return folder


def metrics(folder: Path) -> list[dict[str, Any]]:
    import json

    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
