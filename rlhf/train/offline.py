"""The offline loop: the learner of the online loop over rows of a data set, the same on every rank."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlhf.algorithms.base import Loss
from rlhf.runtimes.base import OptimizerConfig
from rlhf.train.batching import Packing, RowGroup, deal
from rlhf.train.learner import Learner
from rlhf.train.schedule import learning_rate
from rlhf.train.stats import merge
from rlhf.types import InputError, Reference, Row


class TokenRow(Protocol):
    """A sequence and what is learnt of it."""

    token_ids: np.ndarray
    loss_mask: np.ndarray

    @property
    def num_tokens(self) -> int: ...
    @property
    def num_loss_tokens(self) -> int: ...


@dataclass(kw_only=True, slots=True)
class OfflineTrainConfig:
    """How long and in what portions to train."""

    num_steps: int | None = None
    """Optimiser steps; None: one pass over the data."""
    rows_per_step: int = 64
    """Rows an optimiser step learns from, over all ranks."""

    def __post_init__(self) -> None:
        if self.rows_per_step < 1 or (self.num_steps is not None and self.num_steps < 1):
            raise InputError(f"train.rows_per_step={self.rows_per_step}, train.num_steps={self.num_steps}: at least 1")

    def steps_over(self, num_rows: int) -> int:
        return self.num_steps or -(-num_rows // self.rows_per_step)


def fit(
    learner: Learner,
    loss: Loss,
    rows: Sequence[TokenRow],
    optimizer: OptimizerConfig,
    config: OfflineTrainConfig,
    packing: Packing,
    *,
    seed: int,
    next_step: int = 0,
) -> Iterator[dict[str, float]]:
    """Train step by step; yields the figures of each, merged over ranks. Every rank must consume all of it."""
    num_steps = config.steps_over(len(rows))
    for step in range(next_step, num_steps):
        start = time.perf_counter()
        chosen = rows_of_step(len(rows), config.rows_per_step, step, seed)
        groups = [as_group(rows[i]) for i in chosen]
        batch = deal(groups, step=step, num_minibatches=1, num_epochs=1, packing=packing, seed=seed)
        lr = learning_rate(optimizer, step, num_steps)
        stats = merge(learner.backend.gather(learner.update(batch, loss, lr)))
        figures = {f"train/{name}": value for name, value in stats.values().items()}
        seconds = time.perf_counter() - start
        tokens = sum(rows[i].num_tokens for i in chosen)
        speed = {"seconds/step": seconds, "tokens": float(tokens), "tokens_per_second": tokens / seconds}
        yield {"step": float(step), "train/lr": lr, **figures, **speed}


def rows_of_step(num_rows: int, rows_per_step: int, step: int, seed: int) -> list[int]:
    """Indices of a step's rows: consecutive in an endless sequence of permutations, one per epoch."""
    positions = range(step * rows_per_step, (step + 1) * rows_per_step)
    permutations = {
        epoch: np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_rows)
        for epoch in {position // num_rows for position in positions}
    }
    return [int(permutations[position // num_rows][position % num_rows]) for position in positions]


def as_group(row: TokenRow) -> RowGroup:
    scalars = Row(group=0, index=0, num_tokens=row.num_tokens, num_loss_tokens=row.num_loss_tokens)
    return RowGroup(rows=Reference([row]), scalars=(scalars,))
