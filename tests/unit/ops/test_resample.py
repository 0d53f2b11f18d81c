"""Bootstrap and sign flips by cluster: published examples, scipy, invariance."""

import math

import numpy as np
import pytest
from scipy import stats

from rlhf.ops.resample import BootstrapMethod, bootstrap, bootstrap_difference, expanded_alpha, sign_flip_test

# Efron and Tibshirani 1993, table 14.1: the spatial test data, column A.
SPATIAL = np.array(
    [48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41]
)
# Fisher 1935, chapter III: Darwin's differences of heights of 15 pairs of plants, in eighths of an inch.
DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])


def mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 1] / sums[..., 0]


def variance(sums: np.ndarray) -> np.ndarray:
    return sums[..., 2] / sums[..., 0] - mean(sums) ** 2


def rows(values: np.ndarray, powers: int = 1) -> np.ndarray:
    return np.stack([np.asarray(values, dtype=float) ** power for power in range(powers + 1)], axis=1)


@pytest.mark.parametrize(
    ("method", "published"),
    [(BootstrapMethod.percentile, (100.8, 233.9)), (BootstrapMethod.bca, (115.8, 259.6))],
)
def test_intervals_are_those_of_a_published_example(method: BootstrapMethod, published: tuple[float, float]) -> None:
    # Efron and Tibshirani 1993, table 14.2: 90 % intervals of a variance of 171.5, from 2,000 resamples.
    result = bootstrap(rows(SPATIAL, 2), variance, alpha=0.1, method=method, num_resamples=20_000)
    assert result.figure == pytest.approx(171.5, abs=0.05)
    assert (result.low, result.high) == pytest.approx(published, abs=5)
    assert result.standard_error == pytest.approx(42, abs=1)


def test_bca_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).lognormal(size=40)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, rng=np.random.default_rng(1))
    result = bootstrap(rows(values), mean, num_resamples=20_000)
    interval = expected.confidence_interval
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high), rel=0.03)
    assert result.standard_error == pytest.approx(expected.standard_error, rel=0.03)


def test_the_standard_error_of_a_mean_is_that_of_its_formula() -> None:
    values = np.random.default_rng(2).normal(size=300)
    result = bootstrap(rows(values), mean, num_resamples=20_000)
    assert result.standard_error == pytest.approx(values.std() / math.sqrt(300), rel=0.03)


def test_a_difference_resamples_the_same_clusters_of_both() -> None:
    random = np.random.default_rng(3)
    level = random.normal(scale=10, size=50)
    ours, theirs = level + random.normal(size=50), level + random.normal(size=50)
    result = bootstrap_difference(rows(ours), rows(theirs), mean)
    alone = bootstrap(rows(ours - theirs), mean)
    assert (result.low, result.high) == pytest.approx((alone.low, alone.high))
    assert result.high - result.low < 1


def test_a_seed_gives_the_same_interval_and_copies_of_clusters_narrow_it() -> None:
    sums = rows(np.random.default_rng(4).gamma(1, size=30))
    one, again, other = (bootstrap(sums, mean, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    four = bootstrap(np.tile(sums, (4, 1)), mean)
    assert four.figure == pytest.approx(one.figure)
    assert four.standard_error == pytest.approx(one.standard_error / 2, rel=0.1)


def test_resamples_do_not_depend_on_the_size_of_chunks() -> None:
    # 30,000 clusters take several chunks of weights.
    sums = rows(np.random.default_rng(5).normal(size=30_000))
    result = bootstrap(sums, mean, num_resamples=200)
    assert result.standard_error == pytest.approx(1 / math.sqrt(30_000), rel=0.2)


@pytest.mark.parametrize("values", [np.array([3.0]), np.full(20, 3.0)])
def test_what_clusters_do_not_show_has_no_interval(values: np.ndarray) -> None:
    result = bootstrap(rows(values), mean)
    assert result.figure == 3
    assert math.isnan(result.low)
    assert math.isnan(result.standard_error)


def test_a_figure_that_most_resamples_lack_has_no_interval() -> None:
    def last(sums: np.ndarray) -> np.ndarray:
        return np.where(sums[..., 2] > 0, sums[..., 1] / np.maximum(sums[..., 2], 1), np.nan)

    sums = np.zeros((20, 3))
    sums[:, 0] = 1
    sums[0] = (1, 5, 1)
    result = bootstrap(sums, last)
    assert result.figure == 5
    assert math.isnan(result.low)


def test_expanded_percentiles_of_a_mean_are_as_wide_as_students_t() -> None:
    values = np.random.default_rng(6).normal(size=10)
    result = bootstrap(
        rows(values), mean, alpha=expanded_alpha(0.05, 10), method=BootstrapMethod.percentile, num_resamples=50_000
    )
    low, high = stats.t.interval(0.95, 9, loc=values.mean(), scale=stats.sem(values))
    assert result.high - result.low == pytest.approx(high - low, rel=0.05)
    assert expanded_alpha(0.05, 10**6) == pytest.approx(0.05, rel=1e-3)


def test_sign_flips_are_fishers_test_of_darwins_plants() -> None:
    # Fisher 1935, chapter III: 863 of the 2^15 sums are as large, so that p = 1726 / 32768.
    p_value = sign_flip_test(rows(DARWIN), rows(np.zeros(15)), mean, num_permutations=99_999)
    assert p_value == pytest.approx(1726 / 32768, abs=0.003)


def test_few_clusters_are_exact_and_agree_with_scipy() -> None:
    differences = DARWIN[:12]
    expected = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    result = sign_flip_test(rows(differences), rows(np.zeros(12)), mean)
    assert result == pytest.approx(expected.pvalue, abs=1e-12)
    assert sign_flip_test(rows(np.ones(8)), rows(np.zeros(8)), mean) == 2 / 2**8


def test_a_random_p_value_is_never_zero() -> None:
    ours, theirs = rows(np.full(100, 1.0)), rows(np.zeros(100))
    assert sign_flip_test(ours, theirs, mean, num_permutations=999) == 1 / 1000


def test_order_of_clusters_and_of_systems_does_not_matter() -> None:
    random = np.random.default_rng(7)
    ours, theirs = rows(random.normal(size=10)), rows(random.normal(size=10))
    order = random.permutation(10)
    expected = sign_flip_test(ours, theirs, mean)
    assert sign_flip_test(ours[order], theirs[order], mean) == expected
    assert sign_flip_test(theirs, ours, mean) == expected
    assert sign_flip_test(ours, ours, mean) == 1


def test_figures_that_are_no_means_are_exchanged_cluster_by_cluster() -> None:
    def f1(sums: np.ndarray) -> np.ndarray:
        return 2 * sums[..., 0] / (2 * sums[..., 0] + sums[..., 1])

    ours, theirs = np.array([[3.0, 1.0], [2.0, 0.0]]), np.array([[1.0, 2.0], [1.0, 3.0]])
    observed = f1(ours.sum(0)) - f1(theirs.sum(0))
    one = ours[0] + theirs[1], theirs[0] + ours[1]
    assert abs(f1(one[0]) - f1(one[1])) < observed
    assert sign_flip_test(ours, theirs, f1) == 0.5
