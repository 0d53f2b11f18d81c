"""The offline loop: the learner of the online loop over a data set, the same on every rank."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlhf.algorithms.base import Loss
from rlhf.runtimes.configs import OptimizerConfig
from rlhf.runtimes.memory import peak_memory_bytes
from rlhf.train.batching import Packing, RowGroup, deal, minibatch
from rlhf.train.learner import Learner
from rlhf.train.schedule import learning_rate
from rlhf.train.stats import merge
from rlhf.types import Batch, InputError, Reference, Row, TrainingRow, Unit


@dataclass(kw_only=True, slots=True)
class OfflineTrainConfig:
    """Length and batch size of a training."""

    num_steps: int | None = None
    """Optimiser steps; None: `num_epochs` passes over the data."""
    num_epochs: float = 1.0
    """Passes over the data, if `num_steps` is None."""
    rows_per_step: int = 64
    """Rows of an optimiser step, over all ranks; pairs for preference methods."""
    max_restarts: int = 3
    """Largest number of restarts of the ranks by Ray Train after one died; they continue from the newest checkpoint."""

    def __post_init__(self) -> None:
        if self.rows_per_step < 1 or (self.num_steps is not None and self.num_steps < 1):
            raise InputError(f"train.rows_per_step={self.rows_per_step}, train.num_steps={self.num_steps}: at least 1")
        if not 0 < self.num_epochs < float("inf"):
            raise InputError(f"train.num_epochs={self.num_epochs}: give a positive number")
        if self.max_restarts < 0:
            raise InputError(f"train.max_restarts={self.max_restarts}: give 0 for none, or more")

    def steps_over(self, num_rows: int) -> int:
        return self.num_steps or -int(-num_rows * self.num_epochs // self.rows_per_step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Units for training, or held-out units."""

    units: Sequence[Unit]
    mismatched_rows: Sequence[TrainingRow] = ()
    """KTO: each unit's prompt with the completion of another."""

    @classmethod
    def of(cls, units: Sequence[Unit]) -> Corpus:
        return cls(units=units)

    def __len__(self) -> int:
        return len(self.units)


class ColumnFunction(Protocol):
    """Function that computes columns of a batch before the update: the reference's logprobs, KTO's baseline."""

    def __call__(
        self, batch: Batch, mismatched_rows: Sequence[TrainingRow]
    ) -> Mapping[str, Sequence[np.ndarray | None]]:
        """Return the columns, each with an array per pack in the order of the batch; None for other ranks' packs."""


@dataclass(slots=True, kw_only=True)
class OfflineTrainer:
    """One rank of an offline training. Every rank makes the same calls."""

    learner: Learner
    loss: Loss
    optimizer: OptimizerConfig
    config: OfflineTrainConfig
    packing: Packing
    seed: int
    column_functions: Sequence[ColumnFunction] = ()

    def fit(self, corpus: Corpus, *, next_step: int = 0) -> Iterator[dict[str, float]]:
        """Train, and yield the metrics of each step, merged over ranks. Every rank must consume the whole iterator."""
        num_steps = self.config.steps_over(len(corpus))
        for step in range(next_step, num_steps):
            start = time.perf_counter()
            chosen = rows_of_step(len(corpus), self.config.rows_per_step, step, self.seed)
            batch = self.batch(corpus, chosen, step)
            lr = learning_rate(self.optimizer, step, num_steps)
            share = self.learner.update(self.learner.shard(batch, self.loss), self.loss, lr)
            stats = merge(self.learner.backend.gather(share))
            figures = {f"train/{name}": value for name, value in stats.values().items()}
            seconds = time.perf_counter() - start
            tokens = sum(row.num_tokens for i in chosen for row in corpus.units[i])
            cost = {"seconds/step": seconds, "tokens": float(tokens), "tokens_per_second": tokens / seconds,
                    "memory_bytes/policy": float(peak_memory_bytes())}  # fmt: skip
            yield {"step": float(step), "train/lr": lr, **figures, **cost}

    def evaluate(self, corpus: Corpus) -> dict[str, float]:
        """Compute loss and metrics of held-out rows, merged over ranks."""
        shard = self.learner.shard(self.batch(corpus, range(len(corpus)), step=0), self.loss)
        return merge(self.learner.backend.gather(self.learner.evaluate(shard, self.loss))).values()

    def batch(self, corpus: Corpus, chosen: Sequence[int], step: int) -> Batch:
        """Return a batch of some units of a corpus with their computed columns."""
        groups = [as_group(corpus.units[i]) for i in chosen]
        batch = deal(groups, step=step, num_minibatches=1, num_epochs=1, packing=self.packing, seed=self.seed)
        mismatched_rows = [corpus.mismatched_rows[i] for i in chosen] if corpus.mismatched_rows else []
        columns = [function(batch, mismatched_rows) for function in self.column_functions]
        return batch.with_columns([{name: references(column) for name, column in each.items()} for each in columns])


def rows_of_step(num_rows: int, rows_per_step: int, step: int, seed: int) -> list[int]:
    """Return the indices of a step's rows: consecutive in an endless sequence of permutations, one per epoch."""
    positions = range(step * rows_per_step, (step + 1) * rows_per_step)
    permutations = {
        epoch: np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_rows)
        for epoch in {position // num_rows for position in positions}
    }
    return [int(permutations[position // num_rows][position % num_rows]) for position in positions]


def as_group(unit: Unit) -> RowGroup:
    scalars = tuple(
        Row(group=0, index=i, num_tokens=row.num_tokens, num_loss_tokens=row.num_loss_tokens, signal=row.score)
        for i, row in enumerate(unit)
    )
    return RowGroup(rows=Reference(unit), scalars=scalars, whole=True)


def references(column: Sequence[np.ndarray | None]) -> list[Reference]:
    """Wrap values as references; within one process a value is its own reference."""
    return [Reference(values) for values in column]


def columns_of_rows(
    learner: Learner,
    rows: Sequence[TrainingRow],
    packing: Packing,
    *,
    rows_per_batch: int,
) -> list[np.ndarray]:
    """Compute the model's column of each row, [T] float32 each, all of them on every rank."""
    columns: list[np.ndarray] = []
    for start in range(0, len(rows), rows_per_batch):
        part = rows[start : start + rows_per_batch]
        found: dict[int, np.ndarray] = {}
        dealt = one_minibatch(part, packing)
        by_pack = dealt.in_pack_order(learner.backend.gather(learner.compute_columns(learner.shard(dealt))))
        for pack, flat in zip(dealt.minibatches[0].packs, by_pack, strict=True):
            ends = np.cumsum([row.num_tokens for row in pack.rows])
            found |= {row.group: own for row, own in zip(pack.rows, np.split(flat, ends[:-1]), strict=True)}
        columns += [found[i] for i in range(len(part))]
    return columns


def one_minibatch(rows: Sequence[TrainingRow], packing: Packing) -> Batch:
    """Return a batch of single rows for inference; `Row.group` is the row's index."""
    return Batch(step=0, minibatches=(minibatch([as_group((row,)) for row in rows], packing),), order=(0,))
