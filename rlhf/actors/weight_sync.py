"""Weight synchronisation from the learner to every engine: versioned, checksummed, probed, under a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from rlhf.actors.roles import PolicyRole
from rlhf.actors.sampler_pool import SamplerPool
from rlhf.runtimes.carriers import carrier_class
from rlhf.runtimes.configs import Precision
from rlhf.runtimes.transport import AdapterForm, Link, Transport, WeightSyncConfig
from rlhf.train.clock import Clock
from rlhf.train.failover import WorkerDied
from rlhf.types import RunError

PROBE_TOLERANCE = {Precision.fp32: 1e-4, Precision.bf16: 0.3}
"""Largest mean absolute difference of logprobs in nats, several times the rounding error: checksums detect single bits,
the probe detects weights of another model."""


class BucketSync:
    """Weight sync in buckets: the driver passes references on, and a carrier transports the bytes."""

    def __init__(
        self,
        config: WeightSyncConfig,
        transport: str,
        precision: Precision,
        probe: list[int],
        next_version: int,
        clock: Clock,
    ) -> None:
        """`transport` is `config.transport`, or the chosen one if that is None."""
        self.config, self.transport, self.probe = config, transport, probe
        self.next_version, self.clock = next_version, clock
        self.tolerance = PROBE_TOLERANCE[precision] if config.probe_tolerance is None else config.probe_tolerance
        self.connected: frozenset[tuple[int, int]] = frozenset()
        """Members of the transport's group; none while both ends use the object store, as they do at first."""

    async def push(self, policy: PolicyRole, samplers: SamplerPool) -> int:
        """Send the policy's weights to every started engine and verify them. Returns their version."""
        await self.send(policy, samplers, self.next_version, self.transport)
        self.next_version += 1
        return self.next_version - 1

    async def catch_up(self, policy: PolicyRole, samplers: SamplerPool, rank: int) -> None:
        """Send the current version to an engine that was started again, unless a push already has. It travels through
        the object store, whatever the transport: the others keep sampling, and no group has to be formed."""
        if samplers.is_stale(rank):
            await self.send(policy, samplers, self.next_version - 1, Transport.object_store, [rank])

    async def send(
        self,
        policy: PolicyRole,
        samplers: SamplerPool,
        version: int,
        transport: str,
        ranks: Sequence[int] | None = None,
    ) -> None:
        """Send the weights to engines, all of them if `ranks` is None, and let those take prompts that hold them. An
        engine that dies leaves the sync."""
        try:
            async with asyncio.timeout(self.config.timeout_s):
                with self.clock("weight_sync"):
                    await self.replace_weights(policy, samplers, version, transport, ranks)
                with self.clock("weight_probe"):
                    await self.verify(policy, samplers, version)
        except TimeoutError:
            # The others of a collective may wait for a dead one.
            if death := await policy.workers.death_in_the_run():
                raise death from None
            raise RunError(
                f"weight sync: version {version} was not on all engines within weight_sync.timeout_s="
                f"{self.config.timeout_s:g}; look for a stuck learner rank or engine, then resume the run"
            ) from None
        samplers.admit(f"version {version} of the weights")

    async def replace_weights(
        self,
        policy: PolicyRole,
        samplers: SamplerPool,
        version: int,
        transport: str,
        ranks: Sequence[int] | None = None,
    ) -> None:
        """Send the policy's weights while the policy holds its accelerators, so that no other role takes the memory
        that the engines need. A transport whose group an engine's death has broken starts over with the others."""
        async with policy.at_work():
            while True:
                samplers.choose_receivers(ranks)
                members = samplers.members
                if not members:
                    return  # all are being started again, and are sent this version then
                try:
                    return await self.transfer(policy, samplers, version, transport)
                except RunError as error:
                    if isinstance(error, WorkerDied) and error.role != samplers.workers.role:
                        raise
                    await samplers.find_dead()
                    if samplers.members == members:
                        raise

    async def transfer(self, policy: PolicyRole, samplers: SamplerPool, version: int, transport: str) -> None:
        await self.connect(policy, samplers, transport)
        await samplers.load_begin()
        alone = self.config.adapter is AdapterForm.alone
        size, from_every_rank = self.config.bucket_bytes, carrier_class(transport).from_every_rank
        failure: RunError | None = None
        async for buckets in policy.weights(size, adapter_alone=alone, from_every_rank=from_every_rank):
            if failure is None:
                try:
                    await samplers.load(buckets)
                except RunError as error:
                    # The ranks gather their shards together, to the end: the next collective of one is that of all.
                    failure = error
        if failure is not None:
            raise failure
        await samplers.load_finish(version)
        await policy.release_sent()

    async def connect(self, policy: PolicyRole, samplers: SamplerPool, transport: str) -> None:
        """Connect the policy with the receivers, unless they are."""
        members = frozenset() if transport == Transport.object_store else samplers.members
        if members == self.connected:
            return
        self.connected = frozenset()
        host, port = await policy.address()
        size = 1 + samplers.num_receivers
        link = Link(transport=transport, host=host, port=port, size=size, timeout_s=self.config.timeout_s)
        await asyncio.gather(policy.connect(link), samplers.connect(link))
        self.connected = members

    async def verify(self, policy: PolicyRole, samplers: SamplerPool, version: int) -> None:
        expected, engines = await asyncio.gather(policy.probe(self.probe), samplers.logprobs(self.probe))
        for rank, logprobs in engines.items():
            difference = float(np.abs(logprobs - expected).mean())
            if not difference <= self.tolerance:
                raise RunError(
                    f"weight sync: after version {version} engine {rank} gives the probe sequence logprobs that "
                    f"differ from the learner's by {difference:.2g} nats on average, more than {self.tolerance:g}: it "
                    "does not hold the policy's weights"
                )
