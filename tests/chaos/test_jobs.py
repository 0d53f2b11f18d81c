"""Runs as Ray jobs on a head of this machine, as the README tells: edits reach them, a stop saves, they continue."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.chaos.conftest import DEADLINE_S, REPOSITORY, Run, metrics
from tests.chaos.test_runs import figures
from tests.e2e.conftest import SMALL_RUN

pytestmark = pytest.mark.timeout(600)
BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    """Free ports, none of those that Ray keeps for its workers."""
    sockets = [socket.socket() for _ in range(count)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports


@dataclass
class Head:
    """A head with eight pretended accelerators, and its command line."""

    environment: dict[str, str]

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Its logs go to stderr, what they are about to stdout or to either: both are `stdout` here."""
        return subprocess.run([BIN / "ray", *arguments], env=self.environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S, check=False)  # fmt: skip

    def submit(self, job: str, folder: Path, wait_s: int, overrides: list[str]) -> None:
        environment = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(wait_s)}})
        command = ["job", "submit", "--no-wait", "--submission-id", job, "--working-dir", str(folder),
                   "--runtime-env-json", environment, "--", "python", "launch/ppo.py", *overrides]  # fmt: skip
        # The agent that starts jobs comes up a little after its head.
        end = time.monotonic() + DEADLINE_S
        while (done := self.ray(*command)).returncode != 0:
            assert "No available agent" in done.stdout, done.stdout
            assert time.monotonic() < end, done.stdout
            time.sleep(1)

    def wait_until(self, job: str, ended: str) -> None:
        """Until the job `succeeded`, `failed` or `was stopped`, as the command line puts it."""
        end = re.compile(rf"Job '{job}' (succeeded|failed|was stopped)")
        wait_until(lambda: bool(end.search(self.ray("job", "status", job).stdout)), lambda: self.logs(job))
        found = end.search(self.ray("job", "status", job).stdout)
        assert found[1] == ended, self.logs(job)

    def logs(self, job: str) -> str:
        return self.ray("job", "logs", job).stdout


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    gcs, dashboard, agent, client = free_ports(4)
    environment = {
        **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }  # fmt: skip
    # The socket paths below the temporary folder must stay under 108 bytes.
    temporary = Path(f"/tmp/ray-{secrets.token_hex(4)}")
    command = [
        BIN / "ray", "start", "--head", "--block", "--num-gpus", "8", "--num-cpus", "8", "--temp-dir", temporary,
        "--object-store-memory", str(512 << 20), "--port", str(gcs), "--dashboard-port", str(dashboard),
        "--dashboard-agent-listen-port", str(agent), "--ray-client-server-port", str(client),
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    started = Head(environment)
    try:
        end = time.monotonic() + DEADLINE_S
        while started.ray("job", "list").returncode != 0:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(1)
        yield started
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(children, timeout=30)
        for child in left:
            child.kill()
        process.wait(30)
        shutil.rmtree(temporary, ignore_errors=True)


def wait_until(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, explain()
        time.sleep(0.5)


def test_a_stopped_job_continues_to_the_same_numbers(
    head: Head, launch: Callable[..., Run], models: dict[str, Path], sums: Path, tmp_path: Path
) -> None:
    """The recipe and a source file were edited in a copy of the clone; the installed clone is another one."""
    clone, output = tmp_path / "clone", tmp_path / "job"
    for name in ("rlhf", "conf", "launch"):
        shutil.copytree(REPOSITORY / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / ".rayignore", clone)
    (clone / "conf/experiment/edited.yaml").write_text("# @package _global_\ntrain: {num_steps: 40}\nseed: 3\n")
    with (clone / "rlhf/stages/report.py").open("a") as file:
        file.write('\n\nCONSOLE.print("this source was edited")\n')
    base = [entry for entry in SMALL_RUN if not entry.startswith(("output=", "train.num_steps="))]
    recipe = [*base, f"model={models['tied']}", f"data.path={sums}", "success.num_prompts=4", "log.tensorboard=false"]

    overrides = ["experiment=edited", *recipe, f"output={output}"]
    head.submit("first", clone, 120, overrides)
    wait_until(lambda: len(metrics(output)) >= 2, lambda: head.logs("first"))
    assert head.ray("job", "stop", "first").returncode == 0
    head.wait_until("first", "was stopped")
    log = head.logs("first")
    assert "this source was edited" in log
    (saved,) = (output / "checkpoints").iterdir()
    assert f"stopped: {saved} is saved, the same command continues from it" in log
    assert saved.name == f"step-{len(metrics(output)):06d}"

    head.submit("second", clone, 120, overrides)
    head.wait_until("second", "succeeded")
    assert f"continuing from {saved}" in head.logs("second")

    whole = launch(f"output={tmp_path / 'whole'}", "success.num_prompts=4", "log.tensorboard=false", "seed=3",
                   "train.num_steps=40")  # fmt: skip
    assert whole.wait() == 0, whole.log.read_text()
    assert len(figures(output)) == 40
    assert figures(output) == figures(tmp_path / "whole")


def test_a_job_with_a_relative_output_is_refused(head: Head, models: dict[str, Path], sums: Path) -> None:
    overrides = [*SMALL_RUN, f"model={models['tied']}", f"data.path={sums}", "output=outputs/run"]
    head.submit("relative", REPOSITORY, 10, overrides)
    head.wait_until("relative", "failed")
    assert "error: output=outputs/run: in a Ray job that is a folder of the upload" in head.logs("relative")
