"""From the learner to every engine: versioned, checksummed, probed, under a deadline."""

from __future__ import annotations

import asyncio

import numpy as np

from rlhf.actors.roles import PolicyRole, SamplerPool
from rlhf.runtimes.base import Precision, WeightSyncConfig
from rlhf.train.clock import Clock
from rlhf.types import RunError

PROBE_TOLERANCE = {Precision.fp32: 1e-4, Precision.bf16: 0.1}
"""Mean absolute difference of logprobs in nats, several times what rounding gives."""


class ObjectStoreSync:
    """Buckets travel through Ray's object store; the driver passes references on."""

    def __init__(
        self, config: WeightSyncConfig, precision: Precision, probe: list[int], next_version: int, clock: Clock
    ) -> None:
        self.config, self.probe, self.next_version, self.clock = config, probe, next_version, clock
        self.tolerance = PROBE_TOLERANCE[precision] if config.probe_tolerance is None else config.probe_tolerance

    async def push(self, policy: PolicyRole, samplers: SamplerPool) -> int:
        """Give every engine the policy's weights and see that it has them. Returns their version."""
        version = self.next_version
        try:
            async with asyncio.timeout(self.config.timeout_s):
                with self.clock("weight_sync"):
                    await samplers.load_begin()
                    async for bucket in policy.weights(self.config.bucket_bytes):
                        await samplers.load(bucket)
                    await samplers.load_finish(version)
                with self.clock("weight_probe"):
                    await self.verify(policy, samplers, version)
        except TimeoutError:
            raise RunError(
                f"weight sync: version {version} was not on all engines within weight_sync.timeout_s="
                f"{self.config.timeout_s:g}; look for a stuck learner rank or engine, then resume the run"
            ) from None
        self.next_version += 1
        return version

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
