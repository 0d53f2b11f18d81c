"""Learning on one rank: the same update for every loss, online or offline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from rlhf.algorithms.base import Algorithm, Loss, Mean, Outputs, RowSums, Sums
from rlhf.models.causal_lm import SamplingDistribution, TokenReadout, for_columns
from rlhf.ops.microbatch import MicroBatch
from rlhf.ops.whitening import Moments, merge_moments, moments, whiten
from rlhf.runtimes.protocols import Backend, Readout
from rlhf.train.sharding import MinibatchShard, Shard, shard_of
from rlhf.train.stats import Stats
from rlhf.types import Batch, Reference, Rollout, Row

EPSILON = 1e-12
Fetch = Callable[[list[Reference]], Sequence[Any]]
"""Function from references to their values: `ray.get` in a cluster, `list` in one process."""


@dataclass(slots=True)
class Learner:
    """A backend, and the learning on batches. Every rank makes the same calls, with its shard of the same batch."""

    backend: Backend
    readout: Readout[Outputs]
    packed: bool
    fetch: Fetch = field(default=list)

    def shard(self, batch: Batch, loss: Loss | None = None) -> Shard:
        """Return this rank's shard of a batch; a shard for an update needs the loss."""
        return shard_of(batch, self.backend.rank, self.backend.num_ranks, loss)

    def compute_columns(self, shard: Shard) -> list[np.ndarray]:
        """Compute a flat column for each of this rank's packs, in the order of the batch."""
        columns, readout = [], for_columns(self.readout)
        for minibatch in shard.minibatches:
            for micro in self.microbatches(minibatch):
                # Empty packs run through the model too, since every rank takes part in gathering its parameters.
                column = self.backend.forward(micro, readout, grad=False).column
                columns += [micro.flatten(column)] if micro.num_rows else []  # [sum of T_r] float32
        return columns

    def probe(self, token_ids: Sequence[int]) -> np.ndarray:
        """Return the logprob of each token under the model, [T] float32; 0 for the first. Called on every rank."""
        ids = np.array(token_ids, dtype=np.int32)
        micro = MicroBatch.from_rows([ids], [np.arange(len(ids)) > 0], [0.0], {}, packed=self.packed)
        return micro.flatten(
            self.backend.forward(micro, for_columns(TokenReadout(SamplingDistribution())), grad=False).logprobs
        )

    def assign_credit(self, shard: Shard, algorithm: Algorithm) -> tuple[dict[str, list[np.ndarray]], Stats]:
        """Compute `algorithm.credit_columns` of this rank's packs, by name: flat columns, in the order of the batch."""
        columns: dict[str, list[np.ndarray]] = {name: [] for name in algorithm.credit_columns}
        masks: list[np.ndarray] = []
        for minibatch in shard.minibatches:
            for micro in self.microbatches(minibatch):
                if micro.num_rows:
                    credited = algorithm.assign_credit(micro)
                    masks.append(micro.flatten(micro.loss_mask) > 0)
                    for name, column in columns.items():
                        column.append(micro.flatten(credited.column(name)))
        stats = Stats()
        for advantages, mask in zip(columns["advantages"], masks, strict=True):
            stats.add("advantage_magnitude", float(np.abs(advantages).sum()), float(mask.sum()))
        if not (algorithm.whitens or "returns" in columns):
            return columns, stats
        over = self.over_ranks(shard, columns["advantages"], masks)
        if "returns" in columns:
            returns = self.over_ranks(shard, columns["returns"], masks)
            # Advantages are returns minus values: the part of the returns' variance that the critic does not explain.
            stats.add("critic/explained_variance", 1 - over.m2 / max(returns.m2, EPSILON), 1.0)
            stats.add("critic/return", returns.mean, 1.0)
        if algorithm.whitens:
            columns["advantages"] = [
                np.where(mask, whiten(advantages, over), 0.0).astype(np.float32)
                for advantages, mask in zip(columns["advantages"], masks, strict=True)
            ]
        return columns, stats

    def over_ranks(self, shard: Shard, columns: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> Moments:
        """Compute the moments over the loss tokens of the whole batch, merged in the order of its packs."""
        mine = [moments(column[mask]) for column, mask in zip(columns, masks, strict=True)]
        return merge_moments(shard.in_pack_order(self.backend.gather(mine)))

    def update(self, shard: Shard, loss: Loss, lr: float) -> Stats:
        """Take one optimiser step per minibatch in `shard.order`. The stats are this rank's share of the step's."""
        stats = Stats()
        for index in shard.order:
            minibatch = shard.minibatches[index]
            stats.add("loss", self.accumulate(minibatch, loss, stats), 1 / self.backend.num_ranks)
            norm, applied = self.backend.step(lr)
            stats.add("skipped_updates", float(not applied), 1.0)
            if applied:
                stats.add("gradient_norm", norm, 1.0)
        return stats

    def evaluate(self, shard: Shard, loss: Loss) -> Stats:
        """Compute this rank's share of a batch's loss and metrics, as `update` does, without learning."""
        stats = Stats()
        for minibatch in shard.minibatches:
            count = divisor(minibatch)
            shares = [value.item() / count for value in self.losses(minibatch, loss, stats, grad=False)]
            stats.add("loss", sum(shares), 1 / self.backend.num_ranks)
        return stats

    def accumulate(self, minibatch: MinibatchShard, loss: Loss, stats: Stats) -> float:
        """Run the backward pass of this rank's packs; return their share of the minibatch's loss."""
        count = divisor(minibatch)
        remaining = len(minibatch.packs)
        total = 0.0
        for loss_sum in self.losses(minibatch, loss, stats, grad=True):
            remaining -= 1
            self.backend.backward(loss_sum / count, last=remaining == 0)
            total += loss_sum.item() / count
        return total

    def losses(self, minibatch: MinibatchShard, loss: Loss, stats: Stats, *, grad: bool) -> Iterator[Tensor]:
        """Yield the summed loss of each of this rank's packs, and add their metrics to `stats`."""
        for pack, micro in zip(minibatch.packs, self.microbatches(minibatch), strict=True):
            loss_sum, metrics = loss(self.backend.forward(micro, self.readout, grad=grad), micro)
            for name, value in metrics.items():
                if isinstance(value, Mean):
                    stats.add(name, value.total.item(), value.weight)
                elif isinstance(value, Sums):
                    stats.add_vector(name, value.values.tolist(), value.figures)
                elif isinstance(value, RowSums):
                    add_by_set(stats, name, value.values.tolist(), pack.rows)
                elif name.endswith("_max"):
                    stats.add_max(name, value.item())
                else:
                    stats.add(name, value.item(), micro.num_loss_tokens)
            yield loss_sum

    def microbatches(self, minibatch: MinibatchShard) -> Iterator[MicroBatch]:
        """Yield this rank's packs as tensors; their references are fetched at once."""
        groups = dict(zip(minibatch.groups, self.fetch(list(minibatch.groups.values())), strict=True))
        columns = iter(self.fetch([column for pack in minibatch.packs for column in pack.columns.values()]))
        for pack in minibatch.packs:
            values = {name: next(columns) for name in pack.columns}
            if pack.rows:
                yield as_microbatch(pack.rows, groups, values, minibatch.step, self.packed)
            else:
                yield MicroBatch.empty()


def add_by_set(stats: Stats, name: str, sums: Sequence[float], rows: Sequence[Row]) -> None:
    """Count each row's sum over its loss tokens towards the mean of `name`, and of `SET/name` if it is of a set."""
    for row, total in zip(rows, sums, strict=True):
        stats.add(name, total, row.num_loss_tokens)
        if row.data_set:
            stats.add(f"{row.data_set}/{name}", total, row.num_loss_tokens)


def divisor(minibatch: MinibatchShard) -> float:
    """Return the divisor of the whole minibatch's loss."""
    assert minibatch.count is not None, "a shard that is learnt from is made with its loss"
    # A minibatch without a token to learn has gradient zero.
    return max(minibatch.count, 1.0)


def as_microbatch(
    rows: Sequence[Row], groups: dict[int, Sequence[Any]], columns: dict[str, np.ndarray], step: int, packed: bool
) -> MicroBatch:
    """Convert rollouts or rows of a data set, with their computed columns, to tensors."""
    sequences = [groups[row.group][row.index] for row in rows]
    own = (
        {
            "rollout_logprobs": [sequence.logprobs for sequence in sequences],
            # Weights of version N are those that step N begins with.
            "staleness": [np.where(sequence.loss_mask, step - sequence.versions, 0) for sequence in sequences],
        }
        if isinstance(sequences[0], Rollout)
        else {name: [sequence.columns[name] for sequence in sequences] for name in sequences[0].columns}
    )
    return MicroBatch.from_rows(
        [sequence.token_ids for sequence in sequences],
        [sequence.loss_mask for sequence in sequences],
        [row.signal for row in rows],
        {**columns, **{name: np.concatenate(arrays) for name, arrays in own.items()}},
        packed=packed,
    )
