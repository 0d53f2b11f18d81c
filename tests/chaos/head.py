"""A Ray head of the session's own, with a dashboard and a token, as a cluster's users meet it."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from rlhf.ports import free_port

DEADLINE_S = 600
"""Seconds any wait may take before the test fails: it is generous, since machines that run tests are busy."""
BIN = Path(sys.executable).parent


def wait_until(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, explain()
        time.sleep(0.5)


@dataclass
class Head:
    """A head with eight pretended accelerators, and its command line: `environment` is of who talks to it."""

    environment: dict[str, str]
    url: str
    """Of its dashboard."""
    token: str

    def state_of(self, job: str) -> str:
        """The job's state over HTTP: the command line takes seconds of a core for each look."""
        answer = httpx.get(
            f"{self.url}/api/jobs/{job}", headers={"authorization": f"Bearer {self.token}"}, timeout=DEADLINE_S
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["status"])

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
        wait_until(lambda: self.state_of(job) in ("SUCCEEDED", "FAILED", "STOPPED"), lambda: self.logs(job))
        assert f"Job '{job}' {ended}" in self.ray("job", "status", job).stdout, self.logs(job)

    def logs(self, job: str) -> str:
        return self.ray("job", "logs", job).stdout


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    gcs, dashboard, agent, client = (free_port() for _ in range(4))
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
    started = Head(environment, environment["RAY_API_SERVER_ADDRESS"], token.read_text())
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
        _, left = psutil.wait_procs(children, timeout=120)
        for child in left:
            child.kill()
        process.wait(120)
        shutil.rmtree(temporary, ignore_errors=True)
