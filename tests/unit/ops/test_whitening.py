"""Moments that merge: the split does not show."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.ops.whitening import Moments, merge_moments, moments, whiten


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), max_size=9), min_size=1, max_size=6).filter(any))
def test_merged_moments_are_those_of_all_values(parts):
    merged = merge_moments(moments(np.array(part, dtype=np.float32)) for part in parts)
    values = np.concatenate(parts).astype(np.float64)
    assert merged.count == len(values)
    assert merged.mean == pytest.approx(values.mean(), abs=1e-9)
    assert merged.std == pytest.approx(values.std(), abs=1e-6)


def test_whitened_values_have_mean_0_and_variance_1_over_all_parts():
    generator = np.random.default_rng(0)
    parts = [generator.normal(5, 3, size).astype(np.float32) for size in (40, 1, 0, 7)]
    over = merge_moments(map(moments, parts))
    together = np.concatenate([whiten(part, over) for part in parts])
    assert together.dtype == np.float32
    assert together.mean() == pytest.approx(0, abs=1e-6)
    assert together.std() == pytest.approx(1, abs=1e-6)


def test_equal_values_become_zero_and_none_has_no_moments():
    equal = np.full(4, 2.5, dtype=np.float32)
    assert whiten(equal, moments(equal)).tolist() == [0.0] * 4
    assert merge_moments([moments(np.zeros(0, dtype=np.float32))]) == Moments()
    assert Moments().std == 0
