"""Paired shares: published examples, the likelihood by numerical search, invariance, coverage."""

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from rlhf.ops.intervals import Z
from rlhf.ops.paired import (
    constrained_variance,
    mcnemar_exact,
    mcnemar_mid_p,
    paired_share_interval,
    score_interval,
)


def test_p_values_are_those_of_a_published_example() -> None:
    # Fagerland, Lydersen and Laake 2013: airway hyper-responsiveness of 21 children, 1 and 7 discordant pairs.
    assert float(mcnemar_exact(1, 7)) == pytest.approx(0.0703, abs=5e-5)
    assert float(mcnemar_mid_p(1, 7)) == pytest.approx(0.0391, abs=5e-5)


def test_exact_p_values_agree_with_statsmodels_and_mid_p_is_half_a_step_below() -> None:
    for gained in range(12):
        for lost in range(12):
            expected = mcnemar([[0, gained], [lost, 0]], exact=True).pvalue if gained + lost else 1.0
            assert float(mcnemar_exact(gained, lost)) == pytest.approx(expected)
            if gained == lost:
                assert float(mcnemar_mid_p(gained, lost)) == 1
            else:
                step = stats.binom.pmf(gained, gained + lost, 0.5)
                assert float(mcnemar_mid_p(gained, lost)) == pytest.approx(expected - step)


def test_the_score_interval_is_that_of_a_published_example() -> None:
    # Fagerland, Lydersen and Laake 2014: Tango's interval of the same 21 children.
    low, high = score_interval(-6 / 21, 8 / 21, 21)
    assert (float(low), float(high)) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("gained", "lost", "count"), [(1, 7, 21), (0, 3, 12), (5, 5, 40), (9, 2, 11)])
@pytest.mark.parametrize("hypothesis", [-0.6, -0.1, 0.0, 0.3])
def test_the_variance_is_that_of_the_likeliest_shares_under_the_hypothesis(
    gained: int, lost: int, count: int, hypothesis: float
) -> None:
    ties = count - gained - lost

    def loss(share: float) -> float:
        cells = np.array([share + hypothesis, share, 1 - 2 * share - hypothesis])
        return -sum(n * np.log(max(cell, 1e-300)) for n, cell in zip((gained, lost, ties), cells, strict=True) if n)

    bounds = (max(0.0, -hypothesis) + 1e-12, (1 - hypothesis) / 2 - 1e-12)
    share = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x
    result = constrained_variance(
        np.array(hypothesis), np.array((gained - lost) / count), np.array((gained + lost) / count)
    )
    assert float(result) == pytest.approx(2 * share + hypothesis - hypothesis**2, abs=2e-5)


def test_ends_solve_the_score_equation_and_ties_alone_leave_room() -> None:
    for end in score_interval(0.1, 0.3, 50):
        variance = constrained_variance(np.asarray(end), np.array(0.1), np.array(0.3)) / 50
        assert float((end - 0.1) ** 2 / variance) == pytest.approx(Z**2)
    # Without discordant pairs a difference D has variance D (1 - D) / n, so that D = z^2 / (n + z^2).
    low, high = score_interval(0.0, 0.0, 10)
    assert (float(low), float(high)) == pytest.approx((-(Z**2) / (10 + Z**2), Z**2 / (10 + Z**2)))


def test_the_interval_excludes_zero_if_the_score_test_does() -> None:
    # At a difference of 0 the statistic is McNemar's (b - c) / sqrt(b + c).
    for gained in range(15):
        for lost in range(15):
            low, high = score_interval((gained - lost) / 40, (gained + lost) / 40, 40)
            rejects = (gained - lost) ** 2 > Z**2 * (gained + lost)
            assert (float(low) > 1e-12 or float(high) < -1e-12) == rejects


def test_one_pair_in_each_cluster_is_tango_and_copies_count_once() -> None:
    differences = np.array([1.0] * 9 + [-1.0] * 3 + [0.0] * 18)
    expected = [float(end) for end in score_interval(0.2, 0.4, 30)]
    once = paired_share_interval(differences, np.ones(30), differences**2)
    assert [float(end) for end in once] == pytest.approx(expected)
    copies = paired_share_interval(4 * differences, np.full(30, 4.0), 4 * differences**2)
    assert [float(end) for end in copies] == pytest.approx(expected, abs=0.01)


def test_exchanged_systems_mirror_the_interval_and_order_does_not_matter() -> None:
    random = np.random.default_rng(0)
    pairs = random.integers(-1, 2, (25, 4)).astype(float)
    totals, sizes, squares = pairs.sum(1), np.full(25, 4.0), (pairs**2).sum(1)
    low, high = (float(end) for end in paired_share_interval(totals, sizes, squares))
    assert [float(end) for end in paired_share_interval(-totals, sizes, squares)] == pytest.approx([-high, -low])
    order = random.permutation(25)
    assert [float(end) for end in paired_share_interval(totals[order], sizes, squares[order])] == pytest.approx(
        [low, high]
    )


@pytest.mark.parametrize("samples", [1, 4])
def test_coverage(samples: int) -> None:
    random = np.random.default_rng(1)
    result = []
    for rate in (0.1, 0.5, 0.9):
        for prompts in (10, 50):
            rates = random.beta(rate, 1 - rate, (1500, prompts, 1))
            ours, theirs = (random.random((1500, prompts, samples)) < each for each in (0.9 * rates, rates))
            pairs = ours.astype(float) - theirs
            sizes = np.full((1500, prompts), float(samples))
            low, high = paired_share_interval(pairs.sum(2), sizes, (pairs**2).sum(2))
            result.append(np.mean((low <= -0.1 * rate) & (-0.1 * rate <= high)))
    assert 0.94 < np.mean(result) < 0.985
    assert min(result) > 0.92
