"""Overhead of the gateway, cost of a killed replica, and behaviour under overload, on two engines of a tiny model.

    python benchmarks/gateway.py [overhead] [kill] [overload]

`benchmarks/throughput.py` measures the share of its engine's throughput that a gateway reaches.

Clients are coroutines in this process, each with one request at a time. No request may end before its last token, so
that all cost the same. Engines, gateway and clients share the CPU.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from ray import serve as ray_serve

from rlhf.config import compose
from rlhf.models.tiny import build_tiny_model
from rlhf.stages.console import show_table
from serve.config import ServeConfig
from serve.gateway import routing
from serve.local import serving
from serve.store.store import Store

ALPHABET = "0123456789+=abcdefghijklmnopqrstuvwxyz "
ROUNDS, WARM_UP = 200, 20
REQUESTS, KILL_AT, CLIENTS = 1000, 300, 8
ONGOING, OVERLOAD, SECONDS = 8, 10, 15.0
MESSAGES = [{"role": "user", "content": "7+5="}]
BODY = {"messages": MESSAGES, "temperature": 0, "logit_bias": {"1": -100.0}}


@dataclass(frozen=True, slots=True)
class Result:
    """One request: its status, its start and its duration."""

    status: int
    began: float
    seconds: float


def config_for(folder: Path, *overrides: str) -> ServeConfig:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        f"+models.tiny={folder / 'model'}", "production=tiny", f"output={folder / 'service'}", f"http.port={port}",
        "engine.precision=fp32", "engine.context_tokens=256", "engine.kv_cache_bytes=67108864",
        "engine.max_num_seqs=32", *overrides,
    ]  # fmt: skip
    return compose(Path(__file__).parents[1] / "conf", "serve", words, ServeConfig)


def percentiles(seconds: list[float]) -> list[str]:
    return [f"{1e3 * np.percentile(seconds, q):.1f}" for q in (50, 99)]


async def ask(client: aiohttp.ClientSession, max_tokens: int) -> Result:
    began = time.perf_counter()
    body = {**BODY, "model": "assistant", "max_tokens": max_tokens}
    async with client.post("/v1/chat/completions", json=body) as answer:
        await answer.read()
    return Result(answer.status, began, time.perf_counter() - began)


def client_of(url: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0))


# Overhead


async def first_of(answers: AsyncIterator[Any]) -> None:
    async for status, _ in answers:
        assert status == 200


async def overhead(url: str, config: ServeConfig, model: Path) -> None:
    """Measure requests one at a time, alternating between the three ways."""
    from rlhf.runtimes.vllm_server import VLLMServer

    server = VLLMServer(str(model), "tiny", config.engine)
    await server.start()
    store = Store(f"sqlite:///{Path(config.output) / 'store.sqlite'}")
    app = routing.read(store, config).deployments["tiny"].app
    handle = ray_serve.get_app_handle(app).options(stream=True)
    async with client_of(url) as client:

        def ways(max_tokens: int) -> dict[str, Callable[[], Awaitable[Any]]]:
            def body() -> dict[str, Any]:
                return {**BODY, "model": "tiny", "max_tokens": max_tokens}

            return {
                "in process": lambda: first_of(server.answer("chat", body(), uuid.uuid4().hex)),
                "Serve handle": lambda: first_of(handle.answer.remote("chat", body(), uuid.uuid4().hex, None)),
                "gateway": lambda: ask(client, max_tokens),
            }

        for max_tokens in (1, 16):
            seconds: dict[str, list[float]] = {name: [] for name in ways(max_tokens)}
            for round in range(WARM_UP + ROUNDS):
                for name, way in ways(max_tokens).items():
                    began = time.perf_counter()
                    await way()
                    if round >= WARM_UP:
                        seconds[name].append(time.perf_counter() - began)
            show_overhead(max_tokens, seconds)
    server.close()


def show_overhead(max_tokens: int, seconds: dict[str, list[float]]) -> None:
    rows = [(name, *percentiles(times)) for name, times in seconds.items()]
    for below, above in pairwise(seconds):
        paired = np.subtract(seconds[above], seconds[below]).tolist()
        rows.append((f"{above} - {below}", *percentiles(paired)))
    show_table(
        f"max_tokens={max_tokens}: milliseconds of {ROUNDS} requests, one at a time, in turns; differences are paired",
        ("way", "p50 ms", "p99 ms"), rows,
    )  # fmt: skip


# A killed replica


def engines() -> list[psutil.Process]:
    """Return the processes of the engines' replicas on this machine."""
    found = []
    for child in psutil.Process().children(recursive=True):
        if (command := " ".join(child.cmdline())).startswith("ray::ServeReplica") and ":engine" in command:
            found.append(child)
    return found


def running(app: str) -> int:
    replicas = ray_serve.status().applications[app].deployments["engine"].replica_states
    return replicas.get("RUNNING", 0)


async def load(
    client: aiohttp.ClientSession, clients: int, more: Callable[[int], bool], *, patience_s: float = 0.0
) -> list[Result]:
    """Send requests while `more(n)` is True for the n-th; after a refusal a client waits for `patience_s`."""
    results: list[Result] = []
    sent = 0

    async def one() -> None:
        nonlocal sent
        while more(sent):
            sent += 1
            result = await ask(client, 16)
            results.append(result)
            if result.status == 429:
                await asyncio.sleep(patience_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one())
    return results


async def kill(url: str, config: ServeConfig) -> None:
    (app,) = {deployment.app for deployment in routing.read(store_of(config), config).deployments.values()}
    victim = engines()[0]
    killed_at = back_at = 0.0

    def more(sent: int) -> bool:
        nonlocal killed_at
        if sent == KILL_AT and not killed_at:
            killed_at = time.perf_counter()
            os.kill(victim.pid, signal.SIGKILL)
        return sent < REQUESTS

    async def watch() -> float:
        while not killed_at or await asyncio.to_thread(running, app) == 2:
            await asyncio.sleep(0.2)
        while await asyncio.to_thread(running, app) < 2:
            await asyncio.sleep(0.2)
        return time.perf_counter() - killed_at

    async with client_of(url) as client:
        await load(client, CLIENTS, lambda sent: sent < 100)
        watching = asyncio.create_task(watch())
        results = await load(client, CLIENTS, more)
        back_at = await watching
    ended: dict[str, list[Result]] = {"before": [], "after": []}
    for one in results:
        ended["before" if one.began + one.seconds < killed_at else "after"].append(one)
    rows = []
    for name, chosen in ended.items():
        seconds = [one.seconds for one in chosen]
        failed = sum(one.status != 200 for one in chosen)
        rows.append((name, len(chosen), failed, *percentiles(seconds), f"{1e3 * max(seconds):.0f}"))
    show_table(
        f"{REQUESTS} requests of {CLIENTS} clients, 16 tokens each; one of two replicas killed at {KILL_AT}; "
        f"two replicas again after {back_at:.1f} s",
        ("ended", "requests", "failed", "p50 ms", "p99 ms", "longest ms"), rows,
    )  # fmt: skip


def store_of(config: ServeConfig) -> Store:
    return Store(f"sqlite:///{Path(config.output) / 'store.sqlite'}")


# Overload


async def overload(url: str, config: ServeConfig) -> None:
    def until(seconds: float) -> Callable[[int], bool]:
        end = time.perf_counter() + seconds
        return lambda sent: time.perf_counter() < end

    many = OVERLOAD * ONGOING
    loads = [
        ("one client", 1, 0.0), ("half as many as are taken", ONGOING // 2, 0.0),
        ("as many as are taken", ONGOING, 0.0),
        (f"{OVERLOAD} x, obeying Retry-After", many, 1.0), (f"{OVERLOAD} x, back after 50 ms", many, 0.05),
    ]  # fmt: skip
    rows = []
    async with client_of(url) as client:
        await load(client, ONGOING, until(3))
        for name, clients, patience_s in loads:
            rows.append((name, clients, *summary(await load(client, clients, until(SECONDS), patience_s=patience_s))))
        ended = recovered = time.perf_counter()
        for _ in range(20):
            if (await ask(client, 16)).status != 200:
                recovered = time.perf_counter()
        rows.append(("as many as are taken, after", ONGOING, *summary(await load(client, ONGOING, until(5)))))
    show_table(
        f"limits.ongoing_requests={ONGOING}, 16 tokens each, {SECONDS:g} s; {recovered - ended:.2f} s after the end "
        "the last of 20 further requests was refused",
        ("load", "clients", "requests", "429", "else", "accepted/s", "p50 ms", "p99 ms"), rows,
    )  # fmt: skip


def summary(results: list[Result]) -> list[str]:
    counts = Counter(one.status for one in results)
    accepted = [one.seconds for one in results if one.status == 200]
    wall = max(one.began + one.seconds for one in results) - min(one.began for one in results)
    others = len(results) - counts[200] - counts[429]
    share = f"{100 * counts[429] / len(results):.1f} %"
    return [str(len(results)), share, str(others), f"{len(accepted) / wall:.0f}", *percentiles(accepted)]


@contextmanager
def service(*overrides: str) -> Iterator[tuple[str, ServeConfig, Path]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_tiny_model(folder / "model", alphabet=ALPHABET, hidden_size=64)
        config = config_for(folder, *overrides)
        with serving(config) as url:
            # Real clients run elsewhere: these yield the CPU to the service, whose processes have Ray's niceness of 15.
            os.nice(19)
            yield url, config, folder / "model"


def main() -> None:
    wanted = sys.argv[1:] or ["overhead", "kill", "overload"]
    if "overhead" in wanted:
        with service() as (url, config, model):
            asyncio.run(overhead(url, config, model))
    if "kill" in wanted:
        with service("replicas.min=2", "replicas.max=2") as (url, config, _):
            asyncio.run(kill(url, config))
    if "overload" in wanted:
        with service(f"limits.ongoing_requests={ONGOING}") as (url, config, _):
            asyncio.run(overload(url, config))


if __name__ == "__main__":
    main()
