"""What a rank is sent: its own packs and their groups, the whole minibatch's count, and nothing of other ranks."""

import pickle

import pytest

from rlhf.algorithms.base import AlgorithmConfig, Normalisation
from rlhf.algorithms.clipped_loss import ClippedLoss
from rlhf.train.batching import Packing, RowGroup, deal
from rlhf.train.sharding import shard_of
from rlhf.types import Batch, Reference, Row


def big_batch(num_ranks: int) -> Batch:
    """192 groups of 16 rows, and a column for each pack; references are names."""
    groups = [
        RowGroup(
            rows=Reference(f"group {number}"),
            scalars=tuple(Row(group=0, index=i, num_tokens=50 + i + number, num_loss_tokens=40 + i) for i in range(16)),
        )
        for number in range(192)
    ]
    packing = Packing(max_tokens=600, packed=True, num_ranks=num_ranks)
    batch = deal(groups, step=3, num_minibatches=4, num_epochs=2, packing=packing, seed=0)
    names = [f"column {i}" for i in range(sum(len(part.packs) for part in batch.minibatches))]
    return batch.with_columns([{"old_logprobs": [Reference(name) for name in names]}])


@pytest.mark.parametrize("num_ranks", [1, 3, 32])
def test_shards_are_the_batch_dealt_out(num_ranks):
    batch = big_batch(num_ranks)
    shards = [shard_of(batch, rank, num_ranks) for rank in range(num_ranks)]
    assert {shard.order for shard in shards} == {batch.order}
    own = [[pack for part in shard.minibatches for pack in part.packs if pack.rows] for shard in shards]
    assert [shard.num_packs for shard in shards] == [len(packs) for packs in own]
    assert shards[0].in_pack_order(own) == [pack for part in batch.minibatches for pack in part.packs]
    for shard in shards:
        for mine, whole in zip(shard.minibatches, batch.minibatches, strict=True):
            assert mine.groups == {row.group: whole.groups[row.group] for pack in mine.packs for row in pack.rows}
            assert (mine.num_packs, mine.count) == (len(whole.packs), None)
            assert len(mine.packs) == -(-len(whole.packs) // num_ranks), "every rank has equally many"


@pytest.mark.parametrize("normalisation", list(Normalisation))
def test_every_rank_divides_by_the_count_of_the_whole_minibatch(normalisation):
    batch, loss = big_batch(8), ClippedLoss(AlgorithmConfig(normalisation=normalisation), 0.0, max_tokens=8)
    expected = [loss.count(part.rows) for part in batch.minibatches]
    for rank in range(8):
        assert [part.count for part in shard_of(batch, rank, 8, loss).minibatches] == expected


def test_a_shard_grows_with_the_rank_s_packs_and_not_with_the_batch():
    batch = big_batch(32)
    sizes = [len(pickle.dumps(shard_of(batch, rank, 32))) for rank in range(32)]
    assert sum(sizes) < 2 * len(pickle.dumps(batch)), "all ranks together are sent about one batch, not 32"
