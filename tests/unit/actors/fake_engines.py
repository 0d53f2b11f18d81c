"""Engines that die where a test says, behind a role's workers without Ray, and a policy that sends them weights."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from rlhf.actors.sampler_pool import SamplerPool
from rlhf.actors.weight_sync import BucketSync
from rlhf.actors.workers import Workers
from rlhf.runtimes.configs import Precision
from rlhf.runtimes.transport import Link, Transport, WeightSyncConfig
from rlhf.train.clock import BusyClock, Clock
from rlhf.train.failover import FailoverConfig, Restarts, WorkerDied
from rlhf.train.lease import Lease
from rlhf.types import RunError

T = TypeVar("T")
NUM_BUCKETS = 3


class Death(Exception):
    """The process of the called actor is gone."""


@dataclass
class Remote:
    """A method of an actor, called as Ray's are."""

    engine: FakeEngine
    name: str

    def options(self, **_: Any) -> Remote:
        return self

    def remote(self, *arguments: Any) -> Any:
        call = asyncio.ensure_future(self.engine.run(self.name, arguments))
        return ("rollouts", call) if self.name == "collect" else call


class FakeEngine:
    """One start of an engine. `faults` are the calls in which it dies, or waits, by rank, start and method."""

    def __init__(self, rank: int, start: int, faults: Faults) -> None:
        self.rank, self.number, self.faults = rank, start, faults
        self.dead, self.group, self.buckets = asyncio.Event(), "object store", []
        self.holds: int | None = None
        self.complete = True
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Remote:
        return Remote(self, name)

    async def run(self, name: str, arguments: tuple[Any, ...]) -> Any:
        self.calls[name] += 1
        key = (self.rank, self.number, name)
        if key in self.faults.deadly:
            self.dead.set()
        waits = [asyncio.ensure_future(each.wait()) for each in (self.dead, self.faults.gate(key))]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        if self.dead.is_set():
            raise Death
        await asyncio.sleep(0)
        return getattr(self, f"do_{name}")(*arguments)

    def do_start(self, *_: Any) -> None:
        if self.faults.start_error:
            raise self.faults.start_error

    def do_collect(self, prompt: Any, *_: Any) -> Any:
        assert self.complete, "sampled while its weights were replaced"
        return (prompt, self.holds, self.rank)

    def do_connect(self, link: Link, first_rank: int) -> None:
        self.group = group_of(link)

    def do_load_begin(self) -> None:
        self.buckets, self.complete = [], False

    def do_load(self, bucket: Any) -> None:
        if self.group != "object store" and self.faults.broken:
            raise RunError("connection closed by peer")
        number, group = bucket
        assert group == self.group, "sent by a transport that this engine is not connected by"
        self.buckets.append(number)

    def do_load_finish(self, version: int) -> None:
        assert self.buckets == list(range(NUM_BUCKETS)), "a version half loaded"
        self.holds, self.complete = version, True

    def do_logprobs(self, token_ids: Sequence[int]) -> np.ndarray:
        return np.zeros(len(token_ids))

    def do_nothing(self, *_: Any) -> int:
        return 0

    do_answer = do_offload = do_onload = do_memory = do_close = do_expect_weights = do_nothing


class Faults:
    def __init__(self) -> None:
        self.deadly: set[tuple[int, int, str]] = set()
        self.gates: dict[tuple[int, int, str], asyncio.Event] = {}
        self.start_error: BaseException | None = None
        self.broken = False

    def gate(self, key: tuple[int, int, str]) -> asyncio.Event:
        if key not in self.gates:
            self.gates[key] = asyncio.Event()
            self.gates[key].set()
        return self.gates[key]

    def close(self, *key: Any) -> asyncio.Event:
        """Let this call wait until the gate is set."""
        self.gate(key).clear()
        return self.gate(key)


class FakeWorkers(Workers):
    """The real calls to workers, without processes."""

    def __init__(self, num_engines: int, lease: Lease, faults: Faults) -> None:
        self.role, self.phase, self.lease, self.clock = "sampler", "rollout", lease, Clock()
        self.accelerators_each, self.nodes = 1, ["here"] * num_engines
        self.busy, self.faults = BusyClock(num_engines), faults
        self.starts, self.down, self.on_death = Counter(), set(), None
        self.killed: list[FakeEngine] = []
        self.actors = [self.spawn(rank) for rank in range(num_engines)]

    def spawn(self, rank: int) -> Any:
        self.starts[rank] += 1
        return FakeEngine(rank, self.starts[rank], self.faults)

    def kill(self, rank: int) -> None:
        self.actors[rank].dead.set()
        self.killed.append(self.actors[rank])

    async def guard(self, rank: int, result: Awaitable[T]) -> T:
        try:
            return await result
        except Death:
            raise WorkerDied(f"{self.who(rank)} died", self.role, rank) from None


class FakePolicy:
    """A learner whose group breaks with any member."""

    def __init__(self, lease: Lease, faults: Faults) -> None:
        self.lease, self.faults, self.links = lease, faults, []
        self.sent, self.group = 0, "object store"

    def at_work(self) -> AbstractAsyncContextManager[None]:
        return self.lease.hold("policy")

    async def address(self) -> tuple[str, int]:
        return "here", 1

    async def connect(self, link: Link) -> None:
        self.links.append((link.transport, link.size))
        self.group = group_of(link)
        self.faults.broken = False

    async def weights(self, bucket_bytes: int, **_: Any) -> AsyncIterator[list[tuple[int, str]]]:
        self.sent += 1
        for number in range(NUM_BUCKETS):
            yield [(number, self.group)]

    async def release_sent(self) -> None: ...

    async def probe(self, token_ids: Sequence[int]) -> np.ndarray:
        return np.zeros(len(token_ids))


def group_of(link: Link) -> str:
    return "object store" if link.transport == Transport.object_store else f"{link.transport} of {link.size}"


class Rollouts:
    """Engines, a policy and their weight sync, with a restarted engine brought to the current version at once."""

    def __init__(
        self, num_engines: int = 2, *, restarts: int = 8, transport: str = Transport.object_store, shared: bool = False
    ) -> None:
        self.faults, self.said = Faults(), []
        policy_lease = Lease()
        lease = policy_lease if shared else Lease()
        self.workers = FakeWorkers(num_engines, lease, self.faults)
        lease.admit("rollout", self.workers)
        self.policy = FakePolicy(policy_lease, self.faults)
        self.restarts = Restarts(FailoverConfig(rollout_restarts=restarts))
        self.pool = SamplerPool(self.workers, None, self.restarts, start_timeout_s=0.5, tell=self.said.append)
        self.pool.spec = SimpleNamespace()  # type: ignore[assignment]
        self.at_rest = asyncio.Lock()
        config = WeightSyncConfig(timeout_s=5)
        self.sync = BucketSync(config, transport, Precision.fp32, [1, 2], 0, Clock())
        self.pool.follow(self.catch_up)

    async def push(self) -> int:
        async with self.at_rest:
            return await self.sync.push(self.policy, self.pool)  # type: ignore[arg-type]

    async def catch_up(self, rank: int) -> None:
        async with self.at_rest:
            await self.sync.catch_up(self.policy, self.pool, rank)  # type: ignore[arg-type]

    async def collect(self, number: int) -> Any:
        """Return the prompt's number, the version that sampled it, and the engine."""
        group = await self.pool.collect(number, 0, [None] * 4)  # type: ignore[arg-type, list-item]
        return group.infos

    @property
    def versions(self) -> list[int | None]:
        return [engine.holds for engine in self.workers.actors]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)
