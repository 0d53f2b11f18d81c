"""Roles as the loop sees them: they send references to workers and bring back references and figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from rlhf.actors.learner_worker import LearnerSpec
from rlhf.actors.sampler_worker import SamplerSpec
from rlhf.actors.workers import Workers
from rlhf.algorithms.base import Algorithm, Loss
from rlhf.runtimes.base import OptimizerConfig
from rlhf.train.clock import Clock
from rlhf.train.schedule import learning_rate
from rlhf.train.stats import Stats, merge
from rlhf.types import Batch, Group, Prompt, Reference, Sampling


class ModelRole:
    """The workers of a model that scores batches and gives `column`."""

    def __init__(self, workers: Workers, column: str, clock: Clock) -> None:
        self.workers, self.column, self.clock = workers, column, clock

    async def start(self, spec: LearnerSpec) -> None:
        address = await self.workers.guarded(0, self.workers.actors[0].address.remote())
        num_ranks = len(self.workers)
        await self.workers.each(lambda rank, actor: actor.start.remote(spec, rank, num_ranks, address))

    async def score(self, batch: Batch) -> Mapping[str, Sequence[Reference]]:
        with self.clock(f"score_{self.column}"):
            columns, _ = await self.call_for_columns("score", batch)
        return {self.column: columns}

    async def call_for_columns(self, method: str, *arguments: Any) -> tuple[list[Reference], list[Any]]:
        """Call a method that returns one column per pack of its rank and a summary.

        Only the summaries come to the driver; the columns are references, in the order of the batch's packs.
        """
        owned = [shard_sizes(arguments[0], rank, len(self.workers)) for rank in range(len(self.workers))]

        async def call(rank: int, actor: Any) -> tuple[list[Reference], Any]:
            returned = getattr(actor, method).options(num_returns=owned[rank] + 1).remote(*arguments)
            *columns, summary = returned if owned[rank] else [returned]
            return columns, await summary

        results = await self.workers.each(call)
        columns = interleave(arguments[0], [iter(columns) for columns, _ in results])
        return columns, [summary for _, summary in results]

    async def probe(self, token_ids: Sequence[int]) -> np.ndarray:
        return (await self.workers.each(lambda _, actor: actor.probe.remote(token_ids)))[0]

    async def save(self, folder: Path) -> None:
        await self.workers.each(lambda _, actor: actor.save.remote(folder))

    async def load(self, folder: Path) -> None:
        await self.workers.each(lambda _, actor: actor.load.remote(folder))

    async def save_pretrained(self, folder: Path) -> None:
        await self.workers.each(lambda _, actor: actor.save_pretrained.remote(folder))


class PolicyRole(ModelRole):
    """The policy: it scores as `old_logprobs`, learns, and gives its weights away."""

    def __init__(
        self, workers: Workers, algorithm: Algorithm, optimizer: OptimizerConfig, num_steps: int, clock: Clock
    ) -> None:
        super().__init__(workers, "old_logprobs", clock)
        self.algorithm, self.optimizer, self.num_steps = algorithm, optimizer, num_steps

    async def assign_credit(self, batch: Batch) -> tuple[Batch, Stats]:
        with self.clock("assign_credit"):
            columns, stats = await self.call_for_columns("assign_credit", batch, self.algorithm)
        return batch.with_columns([{"advantages": columns}]), merge(stats)

    async def update(self, batch: Batch) -> Stats:
        lr = learning_rate(self.optimizer, batch.step, self.num_steps)
        loss: Loss = self.algorithm.loss
        with self.clock("update"):
            stats = merge(await self.workers.each(lambda _, actor: actor.update.remote(batch, loss, lr)))
        stats.add("lr", lr, 1.0)
        return stats

    def weights(self, bucket_bytes: int) -> AsyncIterator[Reference]:
        """References to the buckets of the whole model, gathered as they are consumed."""
        return self.workers.stream("weights", bucket_bytes)


class SamplerPool:
    """The engines. A whole group goes to the least loaded one, which shares the prompt's cache among its rollouts."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.load_of: Counter[int] = Counter({rank: 0 for rank in range(len(workers))})

    async def start(self, spec: SamplerSpec) -> None:
        await self.workers.each(lambda _, actor: actor.start.remote(spec))

    async def collect(self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]) -> Group:
        rank = min(self.load_of, key=lambda rank: (self.load_of[rank], rank))
        self.load_of[rank] += len(requests)
        try:
            call = self.workers.actors[rank].collect.options(num_returns=2)
            rollouts, infos = call.remote(prompt, epoch, requests)
            return Group(prompt=prompt, rollouts=rollouts, infos=await self.workers.guarded(rank, infos))
        finally:
            self.load_of[rank] -= len(requests)

    async def load_begin(self) -> None:
        await self.workers.each(lambda _, actor: actor.load_begin.remote())

    async def load(self, bucket: Reference) -> None:
        await self.workers.each(lambda _, actor: actor.load.remote(bucket))

    async def load_finish(self, version: int) -> None:
        await self.workers.each(lambda _, actor: actor.load_finish.remote(version))

    async def logprobs(self, token_ids: Sequence[int]) -> list[np.ndarray]:
        return await self.workers.each(lambda _, actor: actor.logprobs.remote(token_ids))

    async def close(self) -> None:
        await self.workers.each(lambda _, actor: actor.close.remote())


def shard_sizes(batch: Batch, rank: int, num_ranks: int) -> int:
    """Packs of a rank over all minibatches, the empty ones not counted."""
    return sum(len(minibatch.packs[rank::num_ranks]) for minibatch in batch.minibatches)


def interleave(batch: Batch, by_rank: Sequence[Iterator[Reference]]) -> list[Reference]:
    """Columns by rank, back in the order of the batch's packs."""
    return [next(by_rank[i % len(by_rank)]) for minibatch in batch.minibatches for i in range(len(minibatch.packs))]


def fetch(references: Sequence[Reference]) -> list[Any]:
    """What references refer to, brought to this process."""
    return ray.get(list(references))
