"""Dealing rows to minibatches and cutting minibatches into packs, from scalars alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rlhf.types import Batch, Minibatch, Pack, Reference, Row, RunError


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """Rows that stay together: a prompt's rollouts. `Row.group` is filled in when they are dealt."""

    rows: Reference
    scalars: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How packs are cut."""

    max_tokens: int
    packed: bool
    """Sequences end to end; false counts the padding to the longest."""


@dataclass(slots=True)
class OpenPack:
    """A pack being filled, longest row first."""

    rows: list[Row] = field(default_factory=list)
    num_tokens: int = 0

    def cells_with(self, row: Row, packing: Packing) -> int:
        """Cells of the tensor these rows and one more, no longer than they, would be laid out in."""
        if packing.packed or not self.rows:
            return self.num_tokens + row.num_tokens
        return self.rows[0].num_tokens * (len(self.rows) + 1)


def deal(
    groups: Sequence[RowGroup],
    *,
    num_minibatches: int,
    num_epochs: int,
    packing: Packing,
    seed: Sequence[int],
) -> Batch:
    """Whole groups in minibatches of about equally many tokens, each cut into packs.

    Membership follows from the seed and the groups alone, whatever the number of ranks, and holds for all epochs;
    the order of the minibatches is drawn anew for each.
    """
    generator = np.random.Generator(np.random.PCG64(list(seed)))
    members: list[list[int]] = [[] for _ in range(num_minibatches)]
    tokens = [0] * num_minibatches
    for index in generator.permutation(len(groups)):
        smallest = min(range(num_minibatches), key=lambda i: (tokens[i], len(members[i]), i))
        members[smallest].append(int(index))
        tokens[smallest] += sum(row.num_tokens for row in groups[index].scalars)
    minibatches = tuple(minibatch([groups[i] for i in chosen], packing) for chosen in members if chosen)
    order = [int(i) for _ in range(num_epochs) for i in generator.permutation(len(minibatches))]
    return Batch(minibatches=minibatches, order=tuple(order))


def minibatch(groups: Sequence[RowGroup], packing: Packing) -> Minibatch:
    """Groups as packs: first fit of the rows, longest first (Johnson 1973)."""
    rows = [
        Row(group=i, index=row.index, num_tokens=row.num_tokens, num_loss_tokens=row.num_loss_tokens, score=row.score)
        for i, group in enumerate(groups)
        for row in group.scalars
    ]
    packs: list[OpenPack] = []
    for row in sorted(rows, key=lambda row: -row.num_tokens):
        if row.num_tokens > packing.max_tokens:
            raise RunError(
                f"a sequence of {row.num_tokens} tokens does not fit max_tokens_per_microbatch={packing.max_tokens}; "
                "raise it"
            )
        pack = next((pack for pack in packs if pack.cells_with(row, packing) <= packing.max_tokens), None)
        if pack is None:
            pack = OpenPack()
            packs.append(pack)
        pack.rows.append(row)
        pack.num_tokens += row.num_tokens
    return Minibatch(
        groups=tuple(group.rows for group in groups), packs=tuple(Pack(rows=tuple(pack.rows)) for pack in packs)
    )
