"""Weight synchronisation from the learner to every engine: versioned, checksummed, probed, under a deadline."""

from __future__ import annotations

import asyncio

import numpy as np

from rlhf.actors.roles import PolicyRole
from rlhf.actors.sampler_pool import SamplerPool
from rlhf.runtimes.carriers import carrier_class
from rlhf.runtimes.configs import Precision
from rlhf.runtimes.transport import AdapterForm, Link, Transport, WeightSyncConfig
from rlhf.train.clock import Clock
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
        self.from_every_rank = carrier_class(transport).from_every_rank
        self.connected = transport == Transport.object_store

    async def push(self, policy: PolicyRole, samplers: SamplerPool) -> int:
        """Send the policy's weights to every engine and verify them. Returns their version."""
        version = self.next_version
        try:
            async with asyncio.timeout(self.config.timeout_s):
                if not self.connected:
                    await self.connect(policy, samplers)
                with self.clock("weight_sync"):
                    await self.replace_weights(policy, samplers, version)
                with self.clock("weight_probe"):
                    await self.verify(policy, samplers, version)
        except TimeoutError:
            raise RunError(
                f"weight sync: version {version} was not on all engines within weight_sync.timeout_s="
                f"{self.config.timeout_s:g}; look for a stuck learner rank or engine, then resume the run"
            ) from None
        self.next_version += 1
        return version

    async def replace_weights(self, policy: PolicyRole, samplers: SamplerPool, version: int) -> None:
        """Send the policy's weights while the policy holds its accelerators, so that no other role takes the memory
        that the engines need."""
        async with policy.at_work():
            await samplers.load_begin()
            alone = self.config.adapter is AdapterForm.alone
            size, from_every_rank = self.config.bucket_bytes, self.from_every_rank
            async for buckets in policy.weights(size, adapter_alone=alone, from_every_rank=from_every_rank):
                await samplers.load(buckets)
            await samplers.load_finish(version)
            await policy.release_sent()

    async def connect(self, policy: PolicyRole, samplers: SamplerPool) -> None:
        host, port = await policy.address()
        link = Link(
            transport=self.transport,
            host=host,
            port=port,
            size=1 + samplers.num_receivers,
            timeout_s=self.config.timeout_s,
        )
        await asyncio.gather(policy.connect(link), samplers.connect(link))
        self.connected = True

    async def verify(self, policy: PolicyRole, samplers: SamplerPool, version: int) -> None:
        expected, engines = await asyncio.gather(policy.probe(self.probe), samplers.logprobs(self.probe))
        for index, logprobs in enumerate(engines):
            difference = float(np.abs(logprobs - expected).mean())
            if not difference <= self.tolerance:
                raise RunError(
                    f"weight sync: after version {version} engine {index} gives the probe sequence logprobs that "
                    f"differ from the learner's by {difference:.2g} nats on average, more than {self.tolerance:g}: it "
                    "does not hold the policy's weights"
                )
