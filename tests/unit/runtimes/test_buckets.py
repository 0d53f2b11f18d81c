"""Weight buckets: what arrives is what was sent, or the run stops."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.runtimes.buckets import (
    ALIGNMENT,
    CHECKSUM_WORDS,
    PLACE_FACTOR,
    Bucket,
    in_buckets,
    pack,
    unpack,
    weighted_sum,
)
from rlhf.types import RunError

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.float64, torch.bool])
SHAPES = st.lists(st.integers(1, 5), max_size=3).map(tuple)


def make(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    values = 100 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values > 0 if dtype is torch.bool else values.to(dtype)


@given(st.lists(st.tuples(DTYPES, SHAPES), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_roundtrip(kinds):
    sent = [(f"layer.{i}.weight", make(dtype, shape, i)) for i, (dtype, shape) in enumerate(kinds)]
    bucket = pack(sent)
    assert all(offset % ALIGNMENT == 0 for offset in bucket.offsets)
    received = list(unpack(pickle.loads(pickle.dumps(bucket))))
    assert [name for name, _ in received] == [name for name, _ in sent]
    for (_, one), (_, other) in zip(received, sent, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)


def test_transposed_and_trained_parameters_are_sent_as_they_read():
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    ((_, plain), (_, transposed)) = unpack(pack([("a", weight), ("b", weight.detach().T)]))
    assert plain.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert transposed.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert not plain.requires_grad


def test_a_bucket_is_a_copy():
    weight = torch.ones(3)
    bucket = pack([("a", weight)])
    weight.zero_()
    assert [value.tolist() for _, value in unpack(bucket)] == [[1.0, 1.0, 1.0]]


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_a_read_only_buffer_is_enough():
    """As Ray hands it out of the object store."""
    bucket = pack([("a", torch.arange(5))])
    bucket.buffer.flags.writeable = False
    assert [value.tolist() for _, value in unpack(bucket)] == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("position", [0, 13, 70, -1])
def test_a_changed_byte_stops_the_run_naming_the_bucket(position):
    bucket = pack([("first.weight", torch.ones(3)), ("second.weight", torch.ones(4, dtype=torch.bfloat16))])
    bucket.buffer[position] ^= 1
    with pytest.raises(RunError, match=r"^weight sync: the bucket from 'first.weight' arrived with checksum"):
        list(unpack(bucket))


def test_a_truncated_buffer_stops_the_run():
    bucket = pack([("first.weight", torch.ones(300))])
    torn: Bucket = dataclasses.replace(bucket, buffer=np.ascontiguousarray(bucket.buffer[:-64]))
    with pytest.raises(RunError, match=r"'first\.weight'"):
        list(unpack(torn))


def test_runs_of_a_closed_form():
    assert list(in_buckets("abcdef", [4, 4, 4, 20, 1, 1], 8)) == [["a", "b"], ["c"], ["d"], ["e", "f"]]
    assert list(in_buckets([], [], 8)) == []


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_runs_cover_everything_in_order_and_are_full(sizes, bucket_bytes):
    runs = list(in_buckets(range(len(sizes)), sizes, bucket_bytes))
    assert [item for run in runs for item in run] == list(range(len(sizes)))
    totals = [sum(sizes[i] for i in run) for run in runs]
    for i, (run, total) in enumerate(zip(runs, totals, strict=True)):
        assert total <= bucket_bytes or len(run) == 1
        assert i == 0 or totals[i - 1] + sizes[run[0]] > bucket_bytes  # what came before had no room for it


def test_an_accelerators_checksum_is_of_every_word_at_its_place():
    """Over more than one block; a flipped bit, a swap and a shift all show."""
    words = torch.randint(-(1 << 62), 1 << 62, (CHECKSUM_WORDS + 5,), generator=torch.Generator().manual_seed(0))
    factors = [(place * PLACE_FACTOR + 1) % (1 << 64) for place in range(len(words) - 4, len(words))]
    few = torch.cat([words.new_zeros(len(words) - 4), words[-4:]])
    expected = sum(factor * int(word) for factor, word in zip(factors, words[-4:], strict=True)) % (1 << 64)
    assert weighted_sum(few) == f"{expected:016x}"
    sent = weighted_sum(words)
    for place in (0, CHECKSUM_WORDS - 1, CHECKSUM_WORDS, len(words) - 1):
        for bit in (0, 62):
            flipped = words.clone()
            flipped[place] ^= 1 << bit
            assert weighted_sum(flipped) != sent
    assert weighted_sum(words.roll(1)) != sent
    assert weighted_sum(words.flip(0)) != sent
