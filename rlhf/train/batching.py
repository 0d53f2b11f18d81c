"""Distribution of rows to minibatches, and of minibatches to packs, from scalars only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rlhf.runtimes.configs import BackendConfig
from rlhf.types import Batch, Minibatch, Pack, Reference, Row, RunError

SLACKS = (1.0, 1.05, 1.1, 1.2, 1.4, 2.0, float("inf"))
"""Factors by which packs may exceed an equal share of the tokens, tried in order until every rank has a pack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """Rows that stay together, such as a prompt's rollouts. `deal` sets `Row.group`."""

    rows: Reference
    scalars: tuple[Row, ...]
    whole: bool = False
    """True if all rows go to one pack, adjacent and in order: a pair, whose loss needs both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Settings of the packs."""

    max_tokens: int
    packed: bool
    """True for sequences end to end; False counts the padding to the longest one."""
    num_ranks: int
    """Ranks of the learner: a minibatch that fits in one pack is still cut into one pack per rank."""


def packing_of(config: BackendConfig, num_ranks: int) -> Packing:
    """Return the packing of a config whose `packed` has been decided, see `train.layout`."""
    assert config.packed is not None, "the layout of rows is chosen before packs are cut"
    return Packing(max_tokens=config.max_tokens_per_microbatch, packed=config.packed, num_ranks=num_ranks)


@dataclass(slots=True)
class OpenPack:
    """A pack being filled with bundles of rows that stay together."""

    rows: list[Row] = field(default_factory=list)
    num_tokens: int = 0
    longest: int = 0

    def add(self, bundle: Sequence[Row]) -> None:
        self.rows += bundle
        self.num_tokens += sum(row.num_tokens for row in bundle)
        self.longest = max(self.longest, *(row.num_tokens for row in bundle))

    def cells_with(self, bundle: Sequence[Row], packing: Packing) -> int:
        """Return the size of the tensor that would hold these rows and the bundle."""
        if packing.packed:
            return self.num_tokens + sum(row.num_tokens for row in bundle)
        return max(self.longest, *(row.num_tokens for row in bundle)) * (len(self.rows) + len(bundle))


def deal(
    groups: Sequence[RowGroup],
    *,
    step: int,
    num_minibatches: int,
    num_epochs: int,
    packing: Packing,
    seed: int,
) -> Batch:
    """Distribute whole groups to minibatches of about equally many tokens, each cut into packs.

    Membership depends only on seed, step and groups, not on the number of ranks, and is the same for all epochs; the
    order of the minibatches is drawn again for each epoch.
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
    """Cut groups into packs that are no larger than needed to give every rank one."""
    bundles: list[tuple[Row, ...]] = []
    for i, group in enumerate(groups):
        rows = tuple(replace(row, group=i) for row in group.scalars)
        bundles += [rows] if group.whole else [(row,) for row in rows]
    bundles.sort(key=lambda bundle: -OpenPack().cells_with(bundle, packing))
    largest = OpenPack().cells_with(bundles[0], packing) if bundles else 0
    if largest > packing.max_tokens:
        what = "a sequence" if len(bundles[0]) == 1 else f"a pair ({len(bundles[0])} sequences of one pack)"
        raise RunError(
            f"{what} of {largest} tokens does not fit backend.max_tokens_per_microbatch={packing.max_tokens}; raise it"
        )
    share = sum(row.num_tokens for bundle in bundles for row in bundle) / packing.num_ranks
    for slack in SLACKS:
        limit = int(min(packing.max_tokens, share * slack + 1))
        packs = first_fit(bundles, limit, packing)
        if len(packs) <= packing.num_ranks or limit == packing.max_tokens:
            break
    return Minibatch(
        groups=tuple(group.rows for group in groups), packs=tuple(Pack(rows=tuple(pack.rows)) for pack in packs)
    )


def first_fit(bundles: Sequence[Sequence[Row]], limit: int, packing: Packing) -> list[OpenPack]:
    """Pack by first fit decreasing (Johnson 1973): each bundle, longest first, goes to the first pack that has room."""
    packs: list[OpenPack] = []
    for bundle in bundles:
        pack = next((pack for pack in packs if pack.cells_with(bundle, packing) <= limit), None)
        if pack is None:
            pack = OpenPack()
            packs.append(pack)
        pack.add(bundle)
    return packs
