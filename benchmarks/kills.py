"""Losses of clients when one process of a service is killed: requests, streams, records, and waiting time.

    python benchmarks/kills.py [gateway] [serve_controller] [release_controller] [engine] [engine_core] [raylet]

The service has two engines of a tiny model and runs in a separate process; `raylet` is that of a second node, with one
of the engines. For each process 1,000 requests arrive at a fixed rate, every third streamed; after 300 it gets SIGKILL.
A request is sent once: stock clients retry up to twice after a refused or broken connection, and after a 5xx.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from ray.cluster_utils import Cluster

from rlhf.models.tiny import build_tiny_model
from rlhf.stages.console import show_table
from serve.store.store import Store

REQUESTS, KILL_AT, RATE = 1000, 300, 12.0
"""Requests per process, those sent before it is killed, and requests per second."""
TOKENS = 8
RECOVERY_S = 600.0
RECORDS_S = 30.0
"""Seconds after the last answer within which its record must be in the store."""
BODY = {"model": "assistant", "messages": [{"role": "user", "content": "7+5="}], "max_tokens": TOKENS,
        "logit_bias": {"1": -100.0}}  # fmt: skip
ENGINE = "ray::ServeReplica:rlhf-model-"
PROCESSES = {
    "gateway": "ray::ServeReplica:rlhf-service:gateway",
    "serve_controller": "ray::ServeController",
    "release_controller": "ray::ServeReplica:rlhf-service:controller",
    "engine": ENGINE,
    "engine_core": "VLLM::EngineCore",
}
RAYLET = "raylet"
"""Beginnings of the command lines of the processes."""


@dataclass(frozen=True, slots=True)
class Result:
    """One request: seconds from the first request to its start, its duration, and its result."""

    at: float
    seconds: float
    id: str | None = None
    """Id of the answer, if it is complete."""
    begun: bool = False
    """True if the first event of a stream arrived."""


@dataclass(frozen=True, slots=True)
class Service:
    url: str
    folder: Path

    def find(self, beginning: str) -> list[psutil.Process]:
        """Return the started processes whose command lines begin with `beginning`."""
        found = []
        for child in psutil.Process().children(recursive=True):
            try:
                name = " ".join(child.cmdline())
            except psutil.NoSuchProcess:
                continue
            if name.startswith(beginning) and "initialize" not in name:
                found.append(child)
        return found

    def is_whole(self) -> bool:
        return all(self.find(beginning) for beginning in PROCESSES.values()) and len(self.find(ENGINE)) == 2


@contextmanager
def serving(folder: Path) -> Iterator[Service]:
    build_tiny_model(folder / "model", alphabet="0123456789+=", hidden_size=64)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        f"+models.tiny={folder / 'model'}", "production=tiny", f"output={folder / 'service'}", f"http.port={port}",
        "engine.precision=fp32", "engine.context_tokens=64", "engine.kv_cache_bytes=67108864", "engine.max_num_seqs=32",
        "replicas.min=2", "replicas.max=2",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        run = subprocess.Popen([sys.executable, "launch/serve.py", *words], cwd=Path(__file__).parents[1], stdout=log,
                               stderr=log, start_new_session=True)  # fmt: skip
    service = Service(f"http://127.0.0.1:{port}", folder / "service")
    try:
        wait_for(lambda: " at http://" in (folder / "log").read_text(), run)
        yield service
    finally:
        run.send_signal(signal.SIGTERM)
        run.wait(RECOVERY_S)


def wait_for(condition, run: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + RECOVERY_S
    while not condition():
        assert time.monotonic() < end, "not in time"
        assert run is None or run.poll() is None, "the service ended"
        time.sleep(0.5)


async def ask(client: httpx.AsyncClient, number: int, origin: float) -> Result:
    began, streamed, id = time.perf_counter(), number % 3 == 0, None
    events: list[str] = []
    try:
        body = {**BODY, "stream": streamed, "user": f"user-{number}"}
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if streamed:
                async for line in answer.aiter_lines():
                    events += [line.removeprefix("data: ")] if line.startswith("data: ") else []
                whole = bool(events) and events[-1] == "[DONE]" and "error" not in json.loads(events[-2])
                id = json.loads(events[0])["id"] if whole else None
            else:
                content = await answer.aread()
                id = json.loads(content)["id"] if answer.status_code == 200 else None
    except httpx.HTTPError:
        pass
    return Result(began - origin, time.perf_counter() - began, id, begun=bool(events))


async def under_load(service: Service, victim: psutil.Process) -> tuple[list[Result], float]:
    """Return the results in order, and the time of the kill."""
    origin, tasks, killed = time.perf_counter(), [], 0.0
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=service.url, timeout=RECOVERY_S, limits=limits) as client:
        for number in range(REQUESTS):
            if number == KILL_AT:
                os.kill(victim.pid, signal.SIGKILL)
                killed = time.perf_counter() - origin
            tasks.append(asyncio.create_task(ask(client, number, origin)))
            await asyncio.sleep(max(origin + (number + 1) / RATE - time.perf_counter(), 0))
        return list(await asyncio.gather(*tasks)), killed


def row(service: Service, name: str, victim: psutil.Process | None = None) -> tuple[object, ...]:
    wait_for(service.is_whole)
    results, killed = asyncio.run(under_load(service, victim or service.find(PROCESSES[name])[0]))
    lost = [result for result in results if result.id is None]
    longest = max(result.seconds for result in results)
    until = max((result.at + result.seconds - killed for result in lost), default=0.0)
    broken = sum(result.begun for result in lost)
    return name, len(lost), broken, f"{until:.1f}", f"{longest:.1f}", records_lost(service, results)


def records_lost(service: Service, results: list[Result]) -> int:
    """Count the complete answers without a record in the store."""
    store = Store(f"sqlite:///{service.folder / 'store.sqlite'}")
    left = {result.id for result in results if result.id is not None}
    end = time.monotonic() + RECORDS_S
    while left and time.monotonic() < end:
        left = {id for id in left if store.requests.dialogue(id) is None}
    store.close()
    return len(left)


@contextmanager
def two_nodes() -> Iterator[psutil.Process]:
    """Start two nodes, each with one CPU for one engine; yield the second node's raylet."""
    node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(**node)
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        yield psutil.Process(second.all_processes["raylet"][0].process.pid)
    finally:
        del os.environ["RAY_ADDRESS"]
        cluster.shutdown()


def main(names: list[str]) -> None:
    rows, one_node = [], [name for name in names or PROCESSES if name != RAYLET]
    if one_node:
        with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as service:
            rows += [row(service, name) for name in one_node]
    if RAYLET in names or not names:
        with two_nodes() as raylet, tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as service:
            rows.append(row(service, RAYLET, raylet))
    show_table(
        f"{REQUESTS} requests per killed process, {RATE:g} a second, each sent once",
        ("process", "lost", "streams broken", "last loss after s", "longest wait s", "records lost"), rows,
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
