"""Rows laid out packed and padded, and back."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.ops.microbatch import MicroBatch

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def make(lengths: list[int], *, packed: bool) -> tuple[MicroBatch, list[list[int]], list[list[bool]], list[float]]:
    """A batch with token 10 * row + position, every third token masked, and its rows as lists."""
    ids = [[10 * (row + 1) + position for position in range(length)] for row, length in enumerate(lengths)]
    mask = [[position % 3 > 0 for position in range(length)] for length in lengths]
    scores = [0.5 - row for row in range(len(lengths))]
    flat = np.arange(sum(lengths), dtype=np.float32) - 2.5
    batch = MicroBatch.from_rows(
        [np.array(row, dtype=np.int32) for row in ids],
        [np.array(row) for row in mask],
        scores,
        {"advantages": flat, "old_logprobs": -flat},
        packed=packed,
    )
    return batch, ids, mask, scores


def test_packed_layout():
    batch, *_ = make([2, 1, 3], packed=True)
    assert batch.token_ids.tolist() == [[10, 11, 20, 30, 31, 32]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 0, 1, 2]]
    assert batch.row_ids.tolist() == [[0, 0, 1, 2, 2, 2]]
    assert batch.loss_mask.tolist() == [[False, True, False, False, True, True]]
    assert batch.column("advantages").tolist() == [[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]]
    assert batch.column("old_logprobs").tolist() == [[2.5, 1.5, 0.5, -0.5, -1.5, -2.5]]
    assert batch.signals.tolist() == [0.5, -0.5, -1.5]
    assert (batch.num_rows, batch.num_loss_tokens) == (3, 3)


def test_padded_layout():
    """Padding follows the tokens, keeps counting positions and belongs to no row."""
    batch, *_ = make([2, 1, 3], packed=False)
    assert batch.token_ids.tolist() == [[10, 11, 0], [20, 0, 0], [30, 31, 32]]
    assert batch.position_ids.tolist() == [[0, 1, 2]] * 3
    assert batch.row_ids.tolist() == [[0, 0, 3], [1, 3, 3], [2, 2, 2]]
    assert batch.loss_mask.tolist() == [[False, True, False], [False, False, False], [False, True, True]]
    assert batch.column("advantages").tolist() == [[-2.5, -1.5, 0.0], [-0.5, 0.0, 0.0], [0.5, 1.5, 2.5]]
    assert (batch.num_rows, batch.num_loss_tokens) == (3, 3)


@given(LENGTHS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_flatten_undoes_the_layout(lengths, packed):
    batch, ids, mask, _ = make(lengths, packed=packed)
    assert batch.flatten(batch.token_ids).tolist() == [token for row in ids for token in row]
    assert batch.flatten(batch.loss_mask).tolist() == [token for row in mask for token in row]
    assert batch.flatten(batch.column("advantages")).tolist() == [i - 2.5 for i in range(sum(lengths))]
    assert batch.flatten(batch.column("advantages")).dtype == np.float32


@given(LENGTHS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_per_token_and_per_row_equal_loops(lengths, packed):
    batch, _, mask, scores = make(lengths, packed=packed)
    per_token = batch.per_token(batch.signals)
    assert batch.flatten(per_token).tolist() == [
        score for score, length in zip(scores, lengths, strict=True) for _ in range(length)
    ]
    assert (per_token[batch.row_ids == batch.num_rows] == 0).all()
    assert batch.per_row(batch.loss_mask.float()).tolist() == [float(sum(row)) for row in mask]
    assert batch.per_row(per_token).tolist() == [s * n for s, n in zip(scores, lengths, strict=True)]


def test_padding_holds_nothing_even_where_a_value_was_put():
    batch, *_ = make([3, 1], packed=False)
    assert batch.per_row(torch.ones(2, 3)).tolist() == [3.0, 1.0]
    assert batch.flatten(torch.ones(2, 3)).tolist() == [1.0] * 4


def test_per_token_is_differentiable():
    batch, *_ = make([2, 4, 1], packed=True)
    values = torch.zeros(3, requires_grad=True)
    batch.per_token(values).sum().backward()
    assert values.grad.tolist() == [2.0, 4.0, 1.0]


def test_the_empty_batch_has_every_column_and_no_row():
    batch = MicroBatch.empty()
    assert (batch.num_rows, batch.num_loss_tokens) == (0, 0)
    assert all(getattr(batch, field.name) is not None for field in dataclasses.fields(batch))
    assert not batch.loss_mask.any()
    assert batch.token_ids.dtype == batch.position_ids.dtype == batch.row_ids.dtype == torch.int64
    assert batch.flatten(batch.column("advantages")).tolist() == []
    assert batch.per_row(torch.ones(1, 2)).tolist() == []
    assert batch.per_token(batch.signals).tolist() == [[0.0, 0.0]]


def test_a_column_that_was_not_computed_is_named():
    batch, *_ = make([2], packed=True)
    with pytest.raises(AssertionError, match="no column 'ref_logprobs' yet"):
        batch.column("ref_logprobs")


def test_to_moves_every_tensor_and_keeps_what_is_absent():
    batch, *_ = make([2, 3], packed=False)
    moved = batch.to(torch.device("meta"))
    for field in dataclasses.fields(batch):
        value = getattr(moved, field.name)
        assert (value is None) == (getattr(batch, field.name) is None)
        assert value is None or value.device.type == "meta"
