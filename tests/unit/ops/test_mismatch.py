"""Gauges of the mismatch against numpy on all tokens at once, however they were split."""

import math

import numpy as np
import pytest
import torch

from rlhf.ops.mismatch import mismatch_figures, mismatch_sums


def draw(seed: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    rollout = -generator.exponential(1.0, 4000)
    return rollout + generator.normal(0.0, scale, 4000), rollout


def sums_of(old: np.ndarray, rollout: np.ndarray, parts: int) -> list[float]:
    total = 0
    for pair in zip(np.array_split(old, parts), np.array_split(rollout, parts), strict=True):
        columns = [torch.from_numpy(np.append(each, np.nan)).float().unsqueeze(0) for each in pair]
        mask = torch.arange(columns[0].shape[1]).unsqueeze(0) < columns[0].shape[1] - 1
        total = total + mismatch_sums(*columns, mask)
    return total.tolist()


@pytest.mark.parametrize("scale", [1e-5, 0.02, 0.5])
@pytest.mark.parametrize("parts", [1, 7])
def test_gauges_equal_numpy_s(scale, parts):
    old, rollout = (each.astype(np.float32).astype(np.float64) for each in draw(0, scale))
    figures, gap = mismatch_figures(sums_of(old, rollout, parts)), old - rollout
    ratio = np.exp(gap)
    assert figures["kl_k1"] == pytest.approx(-gap.mean(), rel=1e-6)
    assert figures["kl_k3"] == pytest.approx((ratio - 1 - gap).mean(), rel=1e-6)
    assert figures["ess"] == pytest.approx(ratio.sum() ** 2 / (len(ratio) * np.square(ratio).sum()), rel=1e-9)
    assert figures["correlation"] == pytest.approx(np.corrcoef(old, rollout)[0, 1], rel=1e-9)
    exact = np.quantile(np.abs(gap), 0.99, method="inverted_cdf")
    assert exact <= figures["gap_p99"] <= exact * 10 ** (1 / 20)


def test_equal_logprobs_have_no_gap():
    old, _ = draw(1, 1.0)
    figures = mismatch_figures(sums_of(old, old, 2))
    assert (figures["kl_k1"], figures["kl_k3"], figures["ess"]) == (0.0, 0.0, 1.0)
    assert figures["gap_p99"] == 1e-7  # the lowest edge
    assert figures["correlation"] == pytest.approx(1.0)


def test_a_gap_beyond_the_last_edge_counts_as_the_edge():
    old, rollout = np.array([-300.0, -1.0]), np.array([-1.0, -300.0])
    figures = mismatch_figures(sums_of(old, rollout, 1))
    assert figures["gap_p99"] == pytest.approx(100.0)
    assert all(math.isfinite(value) for value in figures.values())


def test_without_tokens_there_are_no_gauges():
    nothing = torch.zeros(1, 2)
    assert mismatch_figures(mismatch_sums(nothing, nothing, nothing.bool()).tolist()) == {}


def test_without_variation_there_is_no_correlation():
    ones = np.ones(5)
    assert "correlation" not in mismatch_figures(sums_of(ones, ones, 1))
