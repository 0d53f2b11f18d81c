"""Share of its engine's throughput that a gateway reaches, and CPU time by process.

    python -m benchmarks.throughput

An engine alone alternates with a service that has another engine, on a tiny model. Clients are coroutines in this
process, each with one request at a time. All processes share the CPUs.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

from benchmarks.gateway import BODY, first_of, service
from rlhf.stages.console import show_table
from serve.config import ServeConfig

CLIENTS, TURNS, TURN_S, TOKENS = 64, 4, 8.0, 8
PROCESSES = {
    ":gateway": "gateway", ":engine": "engine's replica", "EngineCore": "vLLM's core", "ProxyActor": "Serve's proxy",
    "ServeController": "Serve's controller", "raylet": "Ray", "gcs_server": "Ray", "ray": "Ray",
}  # fmt: skip
"""Names of processes in the table, by a part of their command line."""


async def throughput(url: str, config: ServeConfig, model: Path) -> None:
    """Measure the engine alone and through the gateway in turns, unstreamed and streamed, and the CPU time by
    process."""
    from rlhf.runtimes.vllm_server import VLLMServer

    server = VLLMServer(str(model), "tiny", config.engine)
    await server.start()
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=CLIENTS)) as client:

        async def alone(body: dict[str, Any]) -> None:
            await first_of(server.answer("chat", {**body, "model": "tiny"}, uuid.uuid4().hex))

        async def through(body: dict[str, Any]) -> None:
            async with client.post("/v1/chat/completions", json={**body, "model": "assistant"}) as answer:
                assert answer.status == 200
                async for _ in answer.content.iter_any():
                    pass

        ways = {
            (name, streamed): (way, {**BODY, "max_tokens": TOKENS, "stream": streamed})
            for streamed in (False, True)
            for name, way in (("engine alone", alone), ("gateway", through))
        }
        rates: dict[tuple[str, bool], list[float]] = {key: [] for key in ways}
        spent: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
        for turn in range(1 + TURNS):
            for key, (way, body) in ways.items():
                before, began = cpu_seconds(), time.perf_counter()
                number = await keep_asking(partial(way, body), CLIENTS, TURN_S)
                if turn:
                    rates[key].append(number / (time.perf_counter() - began))
                if turn and key[0] == "gateway":
                    each = {name: 1e3 * seconds / number / TURNS for name, seconds in (cpu_seconds() - before).items()}
                    spent[key[1]].update(each)
    server.close()
    show_throughput(rates, spent)


async def keep_asking(ask: Callable[[], Awaitable[None]], clients: int, seconds: float) -> int:
    """Return the number of requests that `clients` clients made in `seconds`."""
    end, number = time.perf_counter() + seconds, 0

    async def one() -> None:
        nonlocal number
        while time.perf_counter() < end:
            await ask()
            number += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one())
    return number


def cpu_seconds() -> Counter[str]:
    """Return the CPU time of this process and its descendants, by name in the table."""
    spent: Counter[str] = Counter({"clients": sum(psutil.Process().cpu_times()[:2])})
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            command = " ".join(child.cmdline())
            names = [name for part, name in PROCESSES.items() if part in command]
            spent[names[0] if names else "others"] += sum(child.cpu_times()[:2])
    return spent


def show_throughput(rates: dict[tuple[str, bool], list[float]], spent: dict[bool, Counter[str]]) -> None:
    rows = []
    for streamed in (False, True):
        alone, through = rates["engine alone", streamed], rates["gateway", streamed]
        share = float(np.median(np.divide(through, alone)))
        rows.append(
            (
                "streamed" if streamed else "whole",
                f"{np.median(alone):.0f}",
                f"{np.median(through):.0f}",
                f"{share:.2f}",
            )
        )
    show_table(
        f"{CLIENTS} clients, {TOKENS} tokens each: requests/s, medians of {TURNS} turns of {TURN_S:g} s, turn by turn",
        ("answers", "engine alone", "gateway", "share"), rows,
    )  # fmt: skip
    names = sorted(spent[True], key=lambda name: -spent[True][name])
    show_table(
        "CPU milliseconds of a request through the gateway",
        ("process", "whole", "streamed"),
        [(name, *(f"{spent[streamed][name]:.2f}" for streamed in (False, True))) for name in names]
        + [("all", *(f"{sum(spent[streamed].values()):.2f}" for streamed in (False, True)))],
    )


def main() -> None:
    with service(f"engine.max_num_seqs={CLIENTS}") as (url, config, model):
        asyncio.run(throughput(url, config, model))


if __name__ == "__main__":
    main()
