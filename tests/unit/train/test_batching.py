"""Dealing and packing: every row once, whole groups, budgets kept, whatever the number of ranks."""

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.train.batching import Packing, RowGroup, deal, minibatch
from rlhf.types import Batch, Minibatch, Pack, Reference, Row, RunError

GROUPS = st.lists(st.lists(st.integers(2, 30), min_size=1, max_size=5), min_size=1, max_size=14)
PACKINGS = st.builds(Packing, max_tokens=st.integers(30, 80), packed=st.booleans(), num_ranks=st.integers(1, 4))


def as_groups(lengths: list[list[int]]) -> list[RowGroup]:
    return [
        RowGroup(
            rows=Reference(f"group {number}"),
            scalars=tuple(
                Row(group=0, index=i, num_tokens=length, num_loss_tokens=length - 1, signal=float(i))
                for i, length in enumerate(group)
            ),
        )
        for number, group in enumerate(lengths)
    ]


def deal_them(lengths: list[list[int]], packing: Packing, *, step: int = 0, num_minibatches: int = 3) -> Batch:
    return deal(as_groups(lengths), step=step, num_minibatches=num_minibatches, num_epochs=2, packing=packing, seed=7)


def cells(pack: Pack, packed: bool) -> int:
    """Of the tensor a pack is laid out in."""
    lengths = [row.num_tokens for row in pack.rows]
    return sum(lengths) if packed else max(lengths) * len(lengths)


@given(GROUPS, PACKINGS, st.integers(0, 5), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_every_row_is_dealt_once_with_its_whole_group(lengths, packing, step, num_minibatches):
    batch = deal_them(lengths, packing, step=step, num_minibatches=num_minibatches)
    found = []
    for dealt in batch.minibatches:
        assert dealt.rows
        by_group: dict[int, list[Row]] = {}
        for row in dealt.rows:
            by_group.setdefault(row.group, []).append(row)
        assert sorted(by_group) == list(range(len(dealt.groups)))
        for index, rows in by_group.items():
            number = int(str(dealt.groups[index]).split()[1])
            assert sorted((row.index, row.num_tokens, row.signal) for row in rows) == [
                (i, length, float(i)) for i, length in enumerate(lengths[number])
            ]
            assert all(row.num_loss_tokens == row.num_tokens - 1 for row in rows)
            found.append(number)
    assert sorted(found) == list(range(len(lengths)))
    assert len(batch.minibatches) == min(num_minibatches, len(lengths))
    assert batch.step == step


@given(GROUPS, PACKINGS)
@settings(max_examples=60, deadline=None)
def test_no_pack_exceeds_the_budget_and_none_is_empty(lengths, packing):
    for dealt in deal_them(lengths, packing).minibatches:
        for pack in dealt.packs:
            assert 0 < cells(pack, packing.packed) <= packing.max_tokens


@given(GROUPS, PACKINGS, st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_membership_does_not_depend_on_ranks_or_packing(lengths, packing, step):
    def members(batch: Batch) -> list[tuple[Reference, ...]]:
        return [dealt.groups for dealt in batch.minibatches]

    plain = Packing(max_tokens=1000, packed=True, num_ranks=1)
    one, other = deal_them(lengths, plain, step=step), deal_them(lengths, packing, step=step)
    assert members(one) == members(other)
    assert one.order == other.order


@given(GROUPS, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_minibatches_hold_about_equally_many_tokens(lengths, num_minibatches):
    """Each group goes to the emptiest: two minibatches differ by one group's tokens at most."""
    packing = Packing(max_tokens=1000, packed=True, num_ranks=1)
    batch = deal_them(lengths, packing, num_minibatches=num_minibatches)
    if len(batch.minibatches) == num_minibatches:
        tokens = [sum(row.num_tokens for row in dealt.rows) for dealt in batch.minibatches]
        assert max(tokens) - min(tokens) <= max(sum(group) for group in lengths)


def test_the_order_is_a_permutation_drawn_anew_for_each_epoch():
    lengths = [[5]] * 12
    packing = Packing(max_tokens=40, packed=True, num_ranks=1)
    batch = deal(as_groups(lengths), step=3, num_minibatches=6, num_epochs=4, packing=packing, seed=1)
    epochs = [batch.order[6 * i : 6 * i + 6] for i in range(4)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len(set(epochs)) > 1
    assert len(batch.order) == 24


def test_dealing_follows_from_seed_and_step():
    lengths = [[5, 9], [3], [8, 8, 2], [11], [4], [6, 6]]
    packing = Packing(max_tokens=40, packed=True, num_ranks=2)

    def dealt(seed: int, step: int) -> list[tuple[Reference, ...]]:
        batch = deal(as_groups(lengths), step=step, num_minibatches=2, num_epochs=1, packing=packing, seed=seed)
        return [part.groups for part in batch.minibatches]

    assert dealt(0, 0) == dealt(0, 0)
    assert len({str(dealt(seed, step)) for seed in (0, 1) for step in range(4)}) > 4


@given(GROUPS, PACKINGS)
@settings(max_examples=60, deadline=None)
def test_shards_cover_all_packs_and_are_equally_many(lengths, packing):
    dealt = minibatch(as_groups(lengths), packing)
    for num_ranks in range(1, 5):
        shards = [dealt.shard(rank, num_ranks) for rank in range(num_ranks)]
        assert len({len(shard) for shard in shards}) == 1
        assert Counter(id(pack) for shard in shards for pack in shard if pack.rows) == Counter(map(id, dealt.packs))
        for shard in shards:  # the empty ones come last
            assert all(pack.rows for pack in shard[: sum(bool(pack.rows) for pack in shard)])


@pytest.mark.parametrize("packed", [True, False])
def test_every_rank_gets_a_pack_where_one_would_hold_all(packed):
    dealt = minibatch(as_groups([[10] * 8]), Packing(max_tokens=1000, packed=packed, num_ranks=4))
    assert [len(pack.rows) for pack in dealt.packs] == [2, 2, 2, 2]
    alone = minibatch(as_groups([[10] * 8]), Packing(max_tokens=1000, packed=packed, num_ranks=1))
    assert len(alone.packs) == 1


def test_packs_grow_a_little_rather_than_leave_one_over():
    """Equal shares of 21 tokens would need three packs; ranks would wait for the one that has two."""
    dealt = minibatch(as_groups([[9, 9, 9, 5, 5, 5]]), Packing(max_tokens=1000, packed=True, num_ranks=2))
    assert [[row.num_tokens for row in pack.rows] for pack in dealt.packs] == [[9, 9, 5], [9, 5, 5]]


def test_more_ranks_than_rows():
    dealt = minibatch(as_groups([[10, 4]]), Packing(max_tokens=100, packed=True, num_ranks=4))
    shards = [dealt.shard(rank, 4) for rank in range(4)]
    assert sorted(len(pack.rows) for shard in shards for pack in shard) == [0, 0, 1, 1]


def test_a_sequence_longer_than_the_budget_is_refused():
    sentence = "a sequence of 31 tokens does not fit backend.max_tokens_per_microbatch=30; raise it"
    with pytest.raises(RunError, match=f"^{re.escape(sentence)}$"):
        minibatch(as_groups([[5, 31]]), Packing(max_tokens=30, packed=True, num_ranks=1))


def test_columns_reach_their_packs_in_order():
    row = Row(group=0, index=0, num_tokens=2, num_loss_tokens=1)
    parts = tuple(
        Minibatch(groups=(Reference("g"),), packs=tuple(Pack(rows=(row,)) for _ in range(size))) for size in (2, 1, 3)
    )
    batch = Batch(step=4, minibatches=parts, order=(2, 0, 1))
    refs, olds = [Reference(f"ref {i}") for i in range(6)], [Reference(f"old {i}") for i in range(6)]
    filled = batch.with_columns([{"ref_logprobs": refs}, {"old_logprobs": olds}])
    filled = filled.with_columns([{"advantages": range(6)}])
    packs = [pack for part in filled.minibatches for pack in part.packs]
    for i, pack in enumerate(packs):
        assert pack.columns == {"ref_logprobs": f"ref {i}", "old_logprobs": f"old {i}", "advantages": i}
    assert (filled.step, filled.order, [len(part.packs) for part in filled.minibatches]) == (4, (2, 0, 1), [2, 1, 3])
    assert all(not pack.columns for part in batch.minibatches for pack in part.packs)
    assert batch.with_columns([]) == batch


@given(GROUPS, st.booleans(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_rows_that_stay_together_share_a_pack_side_by_side(lengths, packed, num_ranks):
    packing = Packing(max_tokens=150, packed=packed, num_ranks=num_ranks)
    groups = [replace(group, whole=True) for group in as_groups(lengths)]
    dealt = minibatch(groups, packing)
    for pack in dealt.packs:
        assert 0 < cells(pack, packed) <= packing.max_tokens
        rows = list(pack.rows)
        while rows:
            together = rows[: len(lengths[group_of(dealt, rows[0])])]
            del rows[: len(together)]
            assert len({row.group for row in together}) == 1
            assert [row.index for row in together] == list(range(len(together)))
    assert sum(len(pack.rows) for pack in dealt.packs) == sum(map(len, lengths))


def group_of(dealt: Minibatch, row: Row) -> int:
    return int(str(dealt.groups[row.group]).split()[1])


def test_a_pair_that_fits_no_pack_is_refused_with_the_key():
    (group,) = as_groups([[20, 20]])
    with pytest.raises(RunError, match=r"a pair .* of 40 tokens does not fit backend.max_tokens_per_microbatch=30"):
        minibatch([replace(group, whole=True)], Packing(max_tokens=30, packed=True, num_ranks=1))
