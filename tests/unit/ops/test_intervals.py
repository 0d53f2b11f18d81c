"""Intervals of shares and means over prompts: published values, other libraries, edges, invariance, coverage."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from rlhf.ops.intervals import Estimate, estimate_mean, estimate_share, mean_interval, share_interval


def ends(estimate: Estimate) -> tuple[float, float]:
    return estimate.low, estimate.high


def binary(right: int, count: int) -> np.ndarray:
    return (np.arange(count) < right).astype(float)


@pytest.mark.parametrize(("right", "count"), [(0, 10), (1, 10), (5, 10), (81, 263), (15, 148), (199, 200), (7, 7)])
def test_with_one_sample_of_each_prompt_a_share_has_agresti_and_coulls_interval(right: int, count: int) -> None:
    expected = proportion_confint(right, count, method="agresti_coull")
    found = estimate_share(binary(right, count), np.arange(count))
    assert found.mean == right / count
    assert ends(found) == pytest.approx(np.clip(expected, 0, 1), abs=1e-12)


def test_it_holds_wilsons_interval_of_published_examples() -> None:
    # Newcombe 1998, table I: Wilson's score interval of 81/263, 15/148, 0/20 and 1/29.
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (right, count), (low, high) in published.items():
        found = ends(estimate_share(binary(right, count), np.arange(count)))
        assert found[0] <= low + 5e-5
        assert found[1] >= high - 5e-5
        assert found == pytest.approx((low, high), abs=0.035)


def test_samples_that_are_all_alike_within_prompts_count_as_prompts() -> None:
    right = binary(12, 30)
    once = ends(estimate_share(right, np.arange(30)))
    often = ends(estimate_share(np.repeat(right, 8), np.repeat(np.arange(30), 8)))
    assert often == pytest.approx(once, abs=1e-9)


def test_samples_that_are_independent_count_almost_each() -> None:
    random = np.random.default_rng(0)
    values = (random.random(8 * 400) < 0.3).astype(float)
    low, high = ends(estimate_share(values, np.repeat(np.arange(400), 8)))
    expected = proportion_confint(values.sum(), len(values), method="agresti_coull")
    assert high - low == pytest.approx(expected[1] - expected[0], rel=0.1)


def test_the_effective_number_is_that_of_the_design_effect_worked_by_hand() -> None:
    # 40 prompts of 2 samples, 20 with both right, 20 with one: p = 3/4, p(1 - p) = 3/16, variance between prompts'
    # means 40/39 / 16, design effect 2 (40/39 / 16) / (3/16) = 80/117, rho = -37/117; all prompts have a right sample,
    # 20 a wrong one, so rho moves by (2 / 22)^2 of the way to 1.
    rho = -37 / 117
    rho += (1 - rho) / 121
    effective = 80 / (1 + rho)
    values = np.concatenate([np.ones(40), np.tile([1.0, 0.0], 20)])
    expected = proportion_confint(0.75 * effective, effective, method="agresti_coull")
    assert ends(estimate_share(values, np.repeat(np.arange(40), 2))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_equal_values_have_the_interval_of_as_many_prompts(value: float, samples: int) -> None:
    found = estimate_share(np.full(10 * samples, value), np.repeat(np.arange(10), samples))
    if value == 0.5:
        half = 3.841459 / 2 / 13.841459
        assert ends(found) == pytest.approx((0.5 - half, 0.5 + half))
    else:
        assert ends(found) == pytest.approx(np.clip(proportion_confint(10 * value, 10, method="agresti_coull"), 0, 1))


def test_one_prompt_says_little_however_often_it_is_asked() -> None:
    low, high = ends(estimate_share(binary(30, 60), np.zeros(60, dtype=int)))
    assert high - low > 0.7
    assert math.isnan(estimate_mean(np.arange(60.0), np.zeros(60, dtype=int)).low)


def test_order_and_names_of_prompts_do_not_matter_and_wrong_mirrors_right() -> None:
    random = np.random.default_rng(1)
    prompts = random.integers(0, 15, 90)
    values = (random.random(90) < 0.7).astype(float)
    graded = random.lognormal(size=90)
    order = random.permutation(90)
    for estimate, each in ((estimate_share, values), (estimate_mean, values), (estimate_mean, graded)):
        expected = ends(estimate(each, prompts))
        assert ends(estimate(each[order], 1000 - 7 * prompts[order])) == pytest.approx(expected, abs=1e-12)
    low, high = ends(estimate_share(values, prompts))
    assert ends(estimate_share(1 - values, prompts)) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_leading_axes_are_data_sets_of_their_own() -> None:
    random = np.random.default_rng(2)
    totals, means = random.binomial(4, 0.9, (3, 2, 12)).astype(float), random.gamma(1, size=(3, 2, 12))
    sizes = np.full_like(totals, 4)
    together = [*share_interval(totals, sizes, totals), *mean_interval(means)]
    for place in np.ndindex(3, 2):
        alone = [*share_interval(totals[place], sizes[place], totals[place]), *mean_interval(means[place])]
        assert [each[place] for each in together] == pytest.approx(alone)


def test_means_of_symmetric_values_have_students_interval_almost() -> None:
    values = np.concatenate([-np.arange(1.0, 16), np.arange(1.0, 16)]) + 3
    low, high = stats.t.interval(0.95, 29, loc=3, scale=stats.sem(values))
    found = ends(estimate_mean(values, np.arange(30)))
    assert found[0] <= low
    assert found[1] >= high
    assert found == pytest.approx((low, high), rel=0.05)


def test_few_prompts_have_students_interval() -> None:
    values = np.array([1.0, 2.0, 6.0])
    expected = stats.t.interval(0.95, 2, loc=3, scale=stats.sem(values))
    assert ends(estimate_mean(values, np.arange(3))) == pytest.approx(expected)


def test_the_longer_arm_of_skewed_means_is_where_halls_cubic_is_the_quantile() -> None:
    values = np.random.default_rng(3).lognormal(size=20)
    low, high = ends(estimate_mean(values, np.arange(20)))
    skewness = stats.skew(values, bias=False) * 1.1
    studentised = (values.mean() - high) / values.std(ddof=1)
    cubic = studentised + skewness * studentised**2 / 3 + skewness**2 * studentised**3 / 27 + skewness / 120
    assert cubic == pytest.approx(-stats.t.ppf(0.975, 17) / math.sqrt(20))
    assert low == pytest.approx(stats.t.interval(0.95, 19, loc=values.mean(), scale=stats.sem(values))[0])
    assert high - values.mean() > 1.3 * (values.mean() - low)


def test_means_scale_and_shift_with_their_values() -> None:
    values, prompts = np.random.default_rng(4).gamma(1, size=40), np.repeat(np.arange(10), 4)
    low, high = ends(estimate_mean(values, prompts))
    assert ends(estimate_mean(3 * values - 5, prompts)) == pytest.approx((3 * low - 5, 3 * high - 5))
    assert ends(estimate_mean(-values, prompts)) == pytest.approx((-high, -low))


def test_rewards_of_two_values_have_the_interval_of_a_share() -> None:
    prompts = np.repeat(np.arange(12), 3)
    right = binary(33, 36)
    low, high = ends(estimate_share(right, prompts))
    assert ends(estimate_mean(2 * right - 1, prompts)) == pytest.approx((2 * low - 1, 2 * high - 1))


def test_means_count_prompts_alike_whatever_their_number_of_samples() -> None:
    values, prompts = np.array([1.0, 0.0, 0.0, 0.0, 0.5, 0.7, 0.9]), np.array([0, 1, 1, 1, 2, 2, 2])
    assert estimate_mean(values, prompts).mean == pytest.approx((1.0 + 0.0 + 0.7) / 3)
    assert estimate_share(values, prompts).mean == pytest.approx(values.mean())


def test_equal_means_have_no_interval_and_say_so() -> None:
    # Sums of 0.1 round differently for one and for three samples.
    found = estimate_mean(np.full(40, 0.1), np.arange(40) // 3)
    assert math.isnan(found.low)
    assert str(found) == "0.1 (no interval)"
    assert str(Estimate(mean=0.5, low=0.25, high=0.75)) == "0.5 (0.25 to 0.75)"


def test_coverage() -> None:
    random = np.random.default_rng(5)
    shares, means = [], []
    for prompts in (10, 50):
        for rate in (0.02, 0.1, 0.5, 0.9, 0.97):
            for rho in (0.1, 0.5, 0.9):
                strength = 1 / rho - 1
                rates = random.beta(rate * strength, (1 - rate) * strength, (1500, prompts))
                totals = random.binomial(8, rates).astype(float)
                low, high = share_interval(totals, np.full_like(totals, 8), totals)
                shares.append(np.mean((low <= rate) & (rate <= high)))
        for shape in (0.5, 2.0):
            low, high = mean_interval(random.gamma(shape, 1 / shape, (4000, prompts)))
            means.append(np.mean((low <= 1) & (high >= 1)))
    assert 0.94 < np.mean(shares) < 0.98
    assert min(shares) > 0.92
    assert 0.94 < min(means) < max(means) < 0.98
