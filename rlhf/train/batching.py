"""Dealing rows to minibatches and cutting minibatches into packs, from scalars alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rlhf.runtimes.base import BackendConfig
from rlhf.types import Batch, Minibatch, Pack, Reference, Row, RunError

SLACKS = (1.0, 1.05, 1.1, 1.2, 1.4, 2.0, float("inf"))
"""How much larger than an equal share of the tokens packs may be, tried in turn until there is one per rank."""


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
    num_ranks: int
    """Of the learner: a minibatch that fits one pack is still cut into one for each."""


def packing_of(config: BackendConfig, num_ranks: int) -> Packing:
    return Packing(max_tokens=config.max_tokens_per_microbatch, packed=config.packed, num_ranks=num_ranks)


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
    step: int,
    num_minibatches: int,
    num_epochs: int,
    packing: Packing,
    seed: int,
) -> Batch:
    """Whole groups in minibatches of about equally many tokens, each cut into packs.

    Membership follows from seed, step and groups alone, whatever the number of ranks, and holds for all epochs;
    the order of the minibatches is drawn anew for each.
    """
    generator = np.random.Generator(np.random.PCG64([seed, step]))
    members: list[list[int]] = [[] for _ in range(num_minibatches)]
    tokens = [0] * num_minibatches
    for index in generator.permutation(len(groups)):
        smallest = min(range(num_minibatches), key=lambda i: (tokens[i], len(members[i]), i))
        members[smallest].append(int(index))
        tokens[smallest] += sum(row.num_tokens for row in groups[index].scalars)
    minibatches = tuple(minibatch([groups[i] for i in chosen], packing) for chosen in members if chosen)
    order = [int(i) for _ in range(num_epochs) for i in generator.permutation(len(minibatches))]
    return Batch(step=step, minibatches=minibatches, order=tuple(order))


def minibatch(groups: Sequence[RowGroup], packing: Packing) -> Minibatch:
    """Groups as packs, no larger than needed to give every rank one."""
    rows = [replace(row, group=i) for i, group in enumerate(groups) for row in group.scalars]
    rows.sort(key=lambda row: -row.num_tokens)
    if rows and rows[0].num_tokens > packing.max_tokens:
        raise RunError(
            f"a sequence of {rows[0].num_tokens} tokens does not fit backend.max_tokens_per_microbatch="
            f"{packing.max_tokens}; raise it"
        )
    share = sum(row.num_tokens for row in rows) / packing.num_ranks
    for slack in SLACKS:
        limit = int(min(packing.max_tokens, share * slack + 1))
        packs = first_fit(rows, limit, packing)
        if len(packs) <= packing.num_ranks or limit == packing.max_tokens:
            break
    return Minibatch(
        groups=tuple(group.rows for group in groups), packs=tuple(Pack(rows=tuple(pack.rows)) for pack in packs)
    )


def first_fit(rows: Sequence[Row], limit: int, packing: Packing) -> list[OpenPack]:
    """First fit decreasing (Johnson 1973): each row, longest first, to the first pack that has room."""
    packs: list[OpenPack] = []
    for row in rows:
        pack = next((pack for pack in packs if pack.cells_with(row, packing) <= limit), None)
        if pack is None:
            pack = OpenPack()
            packs.append(pack)
        pack.rows.append(row)
        pack.num_tokens += row.num_tokens
    return packs
