"""The engines of a run, as the loop uses them: prompts in, groups out, and weights of new versions."""

from __future__ import annotations

from asyncio import gather
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rlhf.actors.reward_worker import RewardModelSpec
from rlhf.actors.sampler_worker import SamplerSpec
from rlhf.actors.workers import Workers
from rlhf.runtimes.transport import Link
from rlhf.train.lease import hold_all
from rlhf.types import Group, Prompt, Reference, Sampling


class SamplerPool:
    """The engines. A whole group goes to the least loaded engine, which shares the prompt's cache among its
    rollouts."""

    def __init__(self, workers: Workers, reward: Workers | None = None) -> None:
        """`reward`: the workers of a reward model, which the engines' actors call when rollouts end."""
        self.workers, self.reward = workers, reward
        leases = [workers.lease, *([reward.lease] if reward else [])]
        self.leases = list(dict.fromkeys(leases))
        self.load_of: Counter[int] = Counter({rank: 0 for rank in range(len(workers))})

    async def start(self, spec: SamplerSpec, reward_spec: RewardModelSpec | None) -> None:
        judges = self.reward.actors if self.reward else []

        async def engines() -> None:
            await self.workers.start(lambda _, actor: actor.start.remote(spec, judges))

        if self.reward is None:
            return await engines()
        reward = self.reward.start(lambda _, actor: actor.start.remote(reward_spec))
        if self.reward.lease is not self.workers.lease:
            await gather(reward, engines())
        else:
            # An engine measures the free memory of its accelerator, so the reward model must be loaded before it.
            await reward
            await engines()

    async def collect(self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]) -> Group:
        async with hold_all(self.leases, self.workers.phase):
            rank = min(self.load_of, key=lambda rank: (self.load_of[rank], rank))
            self.load_of[rank] += len(requests)
            try:
                call = self.workers.actors[rank].collect.options(num_returns=2)
                rollouts, infos = call.remote(prompt, epoch, requests)
                return Group(prompt=prompt, rollouts=rollouts, infos=await self.workers.guard(rank, infos))
            finally:
                self.load_of[rank] -= len(requests)

    @property
    def num_receivers(self) -> int:
        """Number of processes that hold weights: one per accelerator of every engine."""
        return len(self.workers) * self.workers.accelerators_each

    async def connect(self, link: Link) -> None:
        each = self.workers.accelerators_each
        await self.workers.all(lambda rank, actor: actor.connect.remote(link, 1 + rank * each))

    # Weights arrive while the policy holds shared accelerators, so an engine allocates memory for weights only.

    async def expect_weights(self) -> None:
        """Announce that new weights come before the next rollout, so that sleeping engines may drop the old ones."""
        await self.workers.all(lambda _, actor: actor.expect_weights.remote())

    async def load_begin(self) -> None:
        await self.workers.all(lambda _, actor: actor.load_begin.remote())

    async def load(self, buckets: Sequence[Reference]) -> None:
        """Load one bucket into all engines, or one bucket per engine."""
        await self.workers.all(lambda rank, actor: actor.load.remote(buckets[rank % len(buckets)]))

    async def load_finish(self, version: int) -> None:
        await self.workers.all(lambda _, actor: actor.load_finish.remote(version))

    async def logprobs(self, token_ids: Sequence[int]) -> list[np.ndarray]:
        return await self.workers.each(lambda _, actor: actor.logprobs.remote(token_ids))

    async def close(self) -> None:
        """End the engines, also while they sleep."""
        await self.workers.all(lambda _, actor: actor.close.remote())
