"""The part of a batch that is sent to one rank, whose size depends on the rank's packs, not on the batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rlhf.algorithms.base import Loss
from rlhf.types import Batch, Pack, Reference, in_pack_order

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MinibatchShard:
    """One rank's part of a minibatch."""

    step: int
    """`Batch.step`."""
    groups: Mapping[int, Reference]
    """Groups of the rank's rows, by their index in the minibatch."""
    packs: tuple[Pack, ...]
    """The rank's packs; the last ones are empty if other ranks have more."""
    num_packs: int
    """Number of packs of the whole minibatch, over all ranks."""
    count: float | None
    """`Loss.count` of the whole minibatch; None for a shard without a loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One rank's part of a batch."""

    minibatches: tuple[MinibatchShard, ...]
    order: tuple[int, ...]
    """`Batch.order`."""

    @property
    def num_packs(self) -> int:
        """Number of the rank's packs over all minibatches, without empty ones."""
        return sum(bool(pack.rows) for part in self.minibatches for pack in part.packs)

    def in_pack_order(self, by_rank: Sequence[Iterable[T]]) -> list[T]:
        """Sort items of all ranks, one per pack of each rank's shard, into the order of the batch's packs."""
        return in_pack_order([part.num_packs for part in self.minibatches], by_rank)


def shard_of(batch: Batch, rank: int, num_ranks: int, loss: Loss | None = None) -> Shard:
    """Return one rank's part of a batch. A shard for an update needs the loss, whose count is over all ranks' rows."""
    parts = []
    for part in batch.minibatches:
        packs = part.shard(rank, num_ranks)
        wanted = sorted({row.group for pack in packs for row in pack.rows})
        parts.append(
            MinibatchShard(
                step=batch.step,
                groups={index: part.groups[index] for index in wanted},
                packs=packs,
                num_packs=len(part.packs),
                count=loss.count(part.rows) if loss else None,
            )
        )
    return Shard(minibatches=tuple(parts), order=batch.order)
