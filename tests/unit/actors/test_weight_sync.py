"""The order in which a sync calls learner, engines and the accelerators they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import pytest

from rlhf.actors.weight_sync import BucketSync
from rlhf.runtimes.configs import Precision
from rlhf.runtimes.transport import Transport, WeightSyncConfig
from rlhf.train.clock import Clock
from rlhf.train.lease import Lease
from rlhf.types import RunError

NUM_BUCKETS = 3


class SleepingEngine:
    """An engine whose memory is gone while it sleeps: whatever touches it then is an error, as on a GPU."""

    def __init__(self, lease: Lease, events: list[str]) -> None:
        self.lease, self.events = lease, events
        self.awake, self.updating = {"weights", "cache"}, False
        self.version: int | None = None
        self.members = frozenset({(0, 1)})

    async def offload(self) -> None:
        if self.updating:
            raise RunError("told to sleep while its weights are replaced")
        self.events.append("engine sleeps")
        self.awake.clear()

    async def onload(self) -> None:
        self.events.append("engine wakes")
        self.awake = {"weights", "cache"}

    async def load_begin(self) -> None:
        self.events.append("load_begin")
        self.updating = True
        self.awake.add("weights")

    async def load(self, buckets: Any) -> None:
        assert "weights" in self.awake, "a write to memory that was given back"
        self.events.append("load")

    async def load_finish(self, version: int) -> None:
        assert "weights" in self.awake, "a write to memory that was given back"
        self.events.append("load_finish")
        self.updating, self.version = False, version

    async def logprobs(self, token_ids: list[int]) -> dict[int, np.ndarray]:
        async with self.lease.hold("rollout"):
            assert self.awake == {"weights", "cache"}
            return {0: np.zeros(len(token_ids))}

    def choose_receivers(self, ranks: None) -> None:
        """The only engine."""

    def admit(self, weights: str) -> None:
        self.events.append("admit")


class Learner:
    def __init__(self, name: str, lease: Lease, events: list[str]) -> None:
        self.name, self.lease, self.events, self.here = name, lease, events, True

    async def offload(self) -> None:
        self.events.append(f"{self.name} leaves")
        self.here = False

    async def onload(self) -> None:
        self.events.append(f"{self.name} comes")
        self.here = True

    def at_work(self) -> AbstractAsyncContextManager[None]:
        return self.lease.hold(self.name)

    async def weights(
        self, bucket_bytes: int, *, adapter_alone: bool, from_every_rank: bool
    ) -> AsyncIterator[list[int]]:
        async with self.lease.hold(self.name):
            for number in range(NUM_BUCKETS):
                assert self.here
                yield [number]

    async def release_sent(self) -> None:
        self.events.append("release")

    async def probe(self, token_ids: list[int]) -> np.ndarray:
        async with self.lease.hold(self.name):
            return np.zeros(len(token_ids))


async def shared() -> tuple[Learner, Learner, SleepingEngine, list[str]]:
    """Policy, reference and engine on one accelerator, started one after the other; the engine has it."""
    events: list[str] = []
    lease = Lease()
    policy, reference = Learner("policy", lease, events), Learner("reference", lease, events)
    engine = SleepingEngine(lease, events)
    for phase, tenant in (("policy", policy), ("reference", reference), ("rollout", engine)):
        async with lease.hold(phase):
            lease.admit(phase, tenant)
    events.clear()
    return policy, reference, engine, events


def bucket_sync(precision: Precision = Precision.fp32, tolerance: float | None = None) -> BucketSync:
    config = WeightSyncConfig(timeout_s=5, probe_tolerance=tolerance)
    return BucketSync(config, Transport.object_store, precision, [1, 2], 4, Clock())


SYNC = ["load_begin", *["load"] * NUM_BUCKETS, "load_finish", "release"]


@pytest.mark.parametrize("before", ["success was measured", "reference scored", "policy learnt"])
async def test_the_policy_has_the_accelerators_from_load_begin_to_load_finish(before: str) -> None:
    policy, reference, engine, events = await shared()
    if before != "success was measured":
        async with reference.lease.hold("reference" if before == "reference scored" else "policy"):
            pass
    events.clear()
    assert await bucket_sync().push(policy, engine) == 4
    start, end = events.index("load_begin"), events.index("release")
    assert events[start : end + 1] == SYNC
    assert policy.name in "".join(events[:start]) or before == "policy learnt"
    # The engine gets the rest of its memory back once it is asked, the policy having left.
    assert events[-3:] == ["policy leaves", "engine wakes", "admit"]
    assert engine.version == 4


async def test_others_wait_for_the_end_of_a_sync() -> None:
    policy, reference, engine, events = await shared()

    async def score() -> None:
        async with reference.lease.hold("reference"):
            events.append("reference scores")

    await asyncio.gather(bucket_sync().push(policy, engine), *(score() for _ in range(3)))
    start = events.index("load_begin")
    assert events[start : start + len(SYNC)] == SYNC


async def test_what_was_kept_for_the_engines_is_released_after_the_last_has_finished() -> None:
    policy, _, engine, events = await shared()
    await bucket_sync().push(policy, engine)
    assert events.index("load_finish") < events.index("release") < events.index("policy leaves")


class OtherEngine(SleepingEngine):
    """An engine whose logprobs differ from the learner's, which are 0, by so many nats on average."""

    nats: float

    async def logprobs(self, token_ids: list[int]) -> dict[int, np.ndarray]:
        assert token_ids == [1, 2]
        return {0: np.array([0.0, 2 * self.nats])}


@pytest.mark.parametrize(
    ("precision", "tolerance", "accepted", "refused"),
    [
        (Precision.bf16, None, 0.29, 0.31),
        (Precision.fp32, None, 9e-5, 2e-4),
        (Precision.bf16, 0.05, 0.04, 0.06),
        (Precision.bf16, None, 0.0, float("nan")),
    ],
)
async def test_the_probe_allows_for_rounding_and_sees_other_weights(
    precision: Precision, tolerance: float | None, accepted: float, refused: float
) -> None:
    lease = Lease()
    policy, engine = Learner("policy", lease, []), OtherEngine(lease, [])
    async with lease.hold("policy"):
        lease.admit("policy", policy)
    engine.nats = accepted
    assert await bucket_sync(precision, tolerance).push(policy, engine) == 4
    engine.nats = refused
    with pytest.raises(
        RunError, match=r"^weight sync: after version 4 engine 0 gives the probe sequence logprobs that"
    ):
        await bucket_sync(precision, tolerance).push(policy, engine)
