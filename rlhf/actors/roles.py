"""Roles as the loop uses them: they send references to workers, and return references and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np
import ray

from rlhf.actors.learner_worker import LearnerSpec
from rlhf.actors.workers import Workers
from rlhf.algorithms.base import Algorithm, Loss
from rlhf.runtimes.configs import OptimizerConfig
from rlhf.runtimes.transport import Link
from rlhf.train.artifact import FileRecords
from rlhf.train.clock import Clock
from rlhf.train.layout import Exactness, Layout
from rlhf.train.report import RoleUse
from rlhf.train.schedule import learning_rate
from rlhf.train.sharding import shard_of
from rlhf.train.stats import Stats, merge
from rlhf.train.verify import SavedModel
from rlhf.types import Batch, Reference


class ModelRole:
    """The workers of a model that computes `column` of batches."""

    def __init__(self, workers: Workers, column: str, clock: Clock) -> None:
        self.workers, self.column, self.clock = workers, column, clock
        self.exactness: tuple[str, Exactness]
        """The model's folder and the exactness of its layouts, set when the role has started."""
        self.spec: LearnerSpec
        self.layout: Layout | None = None
        """Layout of rows; None before `use_layout`."""

    async def start(self, spec: LearnerSpec) -> None:
        self.spec = spec
        address = await self.address()
        num_ranks = len(self.workers)
        exactness = await self.workers.start(lambda rank, actor: actor.start.remote(spec, rank, num_ranks, address))
        self.exactness = (spec.model_path, exactness[0])

    async def use_layout(self, layout: Layout) -> None:
        """Set the layout of rows. Must precede the first column; needs no accelerator."""
        self.layout = layout
        await self.workers.all(lambda _, actor: actor.use_layout.remote(layout.packed))

    async def restart(self) -> None:
        """Start the role again on new workers, as it was first started: with the model that it began with."""
        await self.workers.respawn_all()
        await self.start(self.spec)
        if self.layout is not None:
            await self.use_layout(self.layout)

    async def use(self) -> RoleUse:
        return await self.workers.use()

    async def address(self) -> tuple[str, int]:
        """Return rank 0's node and a free port there."""
        return await self.workers.guard(0, self.workers.actors[0].address.remote())

    async def compute_columns(self, batch: Batch) -> Mapping[str, Sequence[Reference]]:
        with self.clock(f"compute_{self.column}"):
            columns, _ = await self.call_for_columns("compute_columns", [self.column], batch)
        return columns

    async def call_for_columns(
        self, method: str, names: Sequence[str], batch: Batch, *arguments: Any
    ) -> tuple[dict[str, list[Reference]], list[Any]]:
        """Call a method that returns, for each name, one column per pack of its rank, and then a summary.

        Only the summaries are sent to the driver; the columns are references, in the order of the batch's packs.
        """

        async def call(rank: int, actor: Any) -> tuple[list[Reference], Any]:
            shard = shard_of(batch, rank, len(self.workers))
            num_columns = len(names) * shard.num_packs
            returned = getattr(actor, method).options(num_returns=num_columns + 1).remote(shard, *arguments)
            *columns, summary = returned if num_columns else [returned]
            return columns, await summary

        results = await self.workers.each(call)
        by_name = {}
        for i, name in enumerate(names):
            sizes = [len(columns) // len(names) for columns, _ in results]
            shares = [columns[i * size : (i + 1) * size] for (columns, _), size in zip(results, sizes, strict=True)]
            by_name[name] = batch.in_pack_order(shares)
        return by_name, [summary for _, summary in results]

    async def probe(self, token_ids: Sequence[int]) -> np.ndarray:
        return (await self.workers.each(lambda _, actor: actor.probe.remote(token_ids)))[0]

    async def save(self, folder: Path) -> FileRecords:
        by_rank = await self.workers.each(lambda _, actor: actor.save.remote(folder))
        return {name: each for records in by_rank for name, each in records.items()}

    async def load(self, folder: Path) -> None:
        await self.workers.each(lambda _, actor: actor.load.remote(folder))

    async def save_pretrained(self, folder: Path, probe: Sequence[int] | None) -> SavedModel:
        return (await self.workers.each(lambda _, actor: actor.save_pretrained.remote(folder, probe)))[0]


class LearningRole(ModelRole):
    """A model that learns from batches and computes a column of them."""

    prefix = ""
    """Prefix of the role's metrics."""
    first_step = 0
    """First training step in which the role learns."""

    def __init__(
        self,
        workers: Workers,
        column: str,
        algorithm: Algorithm,
        optimizer: OptimizerConfig,
        num_steps: int,
        clock: Clock,
    ) -> None:
        super().__init__(workers, column, clock)
        self.algorithm, self.optimizer, self.num_steps = algorithm, optimizer, num_steps

    def loss(self) -> Loss:
        """Return the loss of the next update."""
        raise NotImplementedError

    async def update(self, batch: Batch) -> Stats:
        if batch.step < self.first_step:
            return Stats()
        lr = learning_rate(self.optimizer, batch.step, self.num_steps)
        loss = self.loss()
        num_ranks = len(self.workers)

        def call(rank: int, actor: Any) -> Any:
            return actor.update.remote(shard_of(batch, rank, num_ranks, loss), loss, lr)

        with self.clock(f"{self.prefix}update".replace("/", "_")):
            stats = merge(await self.workers.each(call))
        stats.add("lr", lr, 1.0)
        return stats.prefixed(self.prefix)


class CriticRole(LearningRole):
    """The critic: it computes `values` and learns the returns."""

    prefix = "critic/"

    def loss(self) -> Loss:
        return self.algorithm.critic_loss


class PolicyRole(LearningRole):
    """The policy: it computes `old_logprobs`, assigns credit, learns, and sends its weights to the engines."""

    def loss(self) -> Loss:
        return self.algorithm.loss

    async def assign_credit(self, batch: Batch) -> tuple[Batch, Stats]:
        with self.clock("assign_credit"):
            names = self.algorithm.credit_columns
            columns, stats = await self.call_for_columns("assign_credit", names, batch, self.algorithm)
        return batch.with_columns([columns]), merge(stats)

    async def evaluate(self, batch: Batch, loss: Loss) -> Stats:
        """Compute a loss of the model's own distribution on a batch, without temperature and bans, and without
        learning."""
        num_ranks = len(self.workers)

        def call(rank: int, actor: Any) -> Any:
            return actor.evaluate.remote(shard_of(batch, rank, num_ranks, loss), loss)

        return merge(await self.workers.each(call))

    async def connect(self, link: Link) -> None:
        await self.workers.all(lambda rank, actor: actor.connect.remote(link, rank))

    def at_work(self) -> AbstractAsyncContextManager[None]:
        """Hold the policy's accelerators for a sequence of calls."""
        return self.workers.lease.hold(self.workers.phase)

    async def release_sent(self) -> None:
        """Release the buffers kept for the engines, none of which uses them any more."""
        await self.workers.all(lambda _, actor: actor.release_sent.remote())

    def weights(
        self, bucket_bytes: int, *, adapter_alone: bool = False, from_every_rank: bool = False
    ) -> AsyncIterator[list[Reference]]:
        """Yield references to the buckets of the whole model, or of its adapter, gathered as they are consumed: rank
        0's, or each rank's."""
        return self.workers.stream("weights", bucket_bytes, adapter_alone, from_every_rank=from_every_rank)


class AdapterOff:
    """The reference of a policy that learns an adapter: its base, on the policy's own ranks."""

    def __init__(self, policy: PolicyRole) -> None:
        self.policy = policy

    async def compute_columns(self, batch: Batch) -> Mapping[str, Sequence[Reference]]:
        with self.policy.clock("compute_ref_logprobs"):
            columns, _ = await self.policy.call_for_columns("compute_base_columns", ["ref_logprobs"], batch)
        return columns


def fetch(references: Sequence[Reference]) -> list[Any]:
    """Fetch the values of references into this process."""
    return ray.get(list(references))
