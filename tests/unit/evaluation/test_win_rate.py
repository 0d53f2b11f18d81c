"""Which of two systems wins: counts, an interval that covers, a test that is exact."""

import itertools
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


def test_ties_alone_prove_nothing_and_leave_room_for_wins():
    found = win_rate([1.0] * 10, [1.0] * 10)
    assert (found.rate, found.p_value) == (0.5, 1.0)
    # 10 ties with z^2/2 added wins and as many losses: variance z^2/4 over 10 + z^2.
    half = 3.841459 / 2 / (10 + 3.841459)
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half))


def test_all_won_is_not_certain():
    low, high = win_rate([1.0] * 10, [0.0] * 10).interval
    assert 0.6 < low < 0.75
    assert high == 1.0


def test_the_other_side_has_the_mirror_image():
    generator = np.random.default_rng(0)
    ours, theirs = generator.integers(0, 4, (2, 200)).astype(float)
    one, other = win_rate(ours, theirs), win_rate(theirs, ours)
    assert one.rate + other.rate == pytest.approx(1)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.interval == pytest.approx((1 - other.interval[1], 1 - other.interval[0]))


def test_the_interval_and_the_sign_test_do_not_contradict_each_other():
    for wins, ties, losses in itertools.product(range(0, 40, 3), (0, 5, 90), range(0, 40, 3)):
        if total := wins + ties + losses:
            found = win_rate([1.0] * wins + [0.0] * ties + [-1.0] * losses, [0.0] * total)
            low, high = found.interval
            if found.p_value >= 0.05:
                assert low <= 0.5 <= high, (wins, ties, losses)
            else:
                assert low >= 0.5 or high <= 0.5, (wins, ties, losses)
            assert low <= found.rate <= high


@pytest.mark.parametrize("num", [10, 20, 150])
def test_the_interval_covers_the_true_rate(num: int):
    generator = np.random.default_rng(0)
    # 75 % wins, 20 % ties: the true rate is 0.85.
    margins = generator.choice([1.0, 0.0, -1.0], size=(500, num), p=[0.75, 0.2, 0.05])
    found = [win_rate(row, np.zeros(num)).interval for row in margins]
    assert 0.93 < np.mean([low <= 0.85 <= high for low, high in found]) < 0.99


def test_p_values_of_equal_systems_are_small_as_rarely_as_they_say():
    generator = np.random.default_rng(0)
    margins = generator.choice([1.0, -1.0], size=(500, 100))
    small = np.mean([win_rate(row, np.zeros(100)).p_value < 0.05 for row in margins])
    assert 0.015 < small < 0.055


def test_scores_of_different_prompts_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        win_rate([1.0, 2.0], [1.0])
