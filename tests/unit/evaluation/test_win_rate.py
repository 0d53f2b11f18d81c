"""Which of two systems wins: counts, an interval that covers, a test that is exact."""

import math

import numpy as np
import pytest

from rlhf.evaluation.win_rate import win_rate


def test_ties_count_half():
    found = win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 5.0])
    assert (found.num_wins, found.num_ties, found.num_losses) == (2, 1, 1)
    assert found.rate == 2.5 / 4


def test_sign_test_equals_the_binomial_sum():
    # 9 wins, 2 losses, ties aside: P(X <= 2 or X >= 9) of 11 fair coins.
    ours = [1.0] * 9 + [0.0] * 2 + [0.5] * 6
    expected = 2 * sum(math.comb(11, k) for k in range(3)) / 2**11
    assert win_rate(ours, [0.5] * 17).p_value == pytest.approx(expected)


def test_ties_alone_prove_nothing():
    found = win_rate([1.0, 2.0], [1.0, 2.0])
    assert (found.rate, found.interval, found.p_value) == (0.5, (0.5, 0.5), 1.0)


def test_the_other_side_has_the_mirror_image():
    generator = np.random.default_rng(0)
    ours, theirs = generator.integers(0, 4, (2, 200)).astype(float)
    one, other = win_rate(ours, theirs), win_rate(theirs, ours)
    assert one.rate + other.rate == pytest.approx(1)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.interval == pytest.approx((1 - other.interval[1], 1 - other.interval[0]), abs=0.01)


def test_the_interval_is_that_of_drawing_prompts_again():
    generator = np.random.default_rng(1)
    ours, theirs = generator.integers(0, 3, (2, 60)).astype(float)
    points = (np.sign(ours - theirs) + 1) / 2
    means = points[generator.integers(0, 60, (20_000, 60))].mean(1)
    assert win_rate(ours, theirs).interval == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist(), abs=0.01)


def test_the_interval_covers_the_true_rate():
    generator = np.random.default_rng(0)
    # 50 % wins, 20 % ties: the true rate is 0.6.
    margins = generator.choice([1.0, 0.0, -1.0], size=(300, 150), p=[0.5, 0.2, 0.3])
    found = [win_rate(row, np.zeros(150), seed=i).interval for i, row in enumerate(margins)]
    assert 0.92 < np.mean([low <= 0.6 <= high for low, high in found]) < 0.975


def test_p_values_of_equal_systems_are_small_as_rarely_as_they_say():
    generator = np.random.default_rng(0)
    margins = generator.choice([1.0, -1.0], size=(500, 100))
    small = np.mean([win_rate(row, np.zeros(100)).p_value < 0.05 for row in margins])
    assert 0.015 < small < 0.055


def test_the_seed_alone_decides():
    ours, theirs = np.random.default_rng(0).normal(size=(2, 50))
    assert win_rate(ours, theirs, seed=7) == win_rate(ours, theirs, seed=7)


def test_scores_of_different_prompts_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        win_rate([1.0, 2.0], [1.0])
