"""Estimates of metrics and comparisons of two systems: neighbours, agreement of interval and test, invariance."""

import math

import numpy as np
import pytest
from scipy import stats

from rlhf.evaluation.estimates import PairedTest, compare, estimate
from rlhf.evaluation.items import Answer
from rlhf.ops.intervals import estimate_mean, estimate_share
from rlhf.ops.paired import mcnemar_mid_p, score_interval
from rlhf.types import InputError
from tests.unit.evaluation.metric_fakes import F1, Right, Stars, Value, rows


def binary(random: np.random.Generator, rate: float, num: int) -> np.ndarray:
    return (random.random(num) < rate).astype(float)


def test_means_with_bounds_have_the_interval_of_a_share() -> None:
    random = np.random.default_rng(0)
    right, clusters = binary(random, 0.7, 60), np.repeat(np.arange(20), 3)
    assert estimate(Right(), rows(right), clusters) == estimate_share(right, clusters)
    stars = estimate(Stars(), rows(1 + 4 * right), clusters)
    share = estimate_share(right, clusters)
    assert (stars.mean, stars.low, stars.high) == pytest.approx(
        (1 + 4 * share.mean, 1 + 4 * share.low, 1 + 4 * share.high)
    )


def test_other_means_of_equal_clusters_have_the_interval_of_clusters_means() -> None:
    values, clusters = np.random.default_rng(1).gamma(1, size=60), np.repeat(np.arange(20), 3)
    result, expected = estimate(Value(), rows(values), clusters), estimate_mean(values, clusters)
    assert (result.mean, result.low, result.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_means_of_unequal_clusters_count_answers_alike() -> None:
    values, clusters = np.array([1.0, 0.5, 0.0, 0.1, 0.7, 0.9]), np.array([0, 1, 1, 1, 2, 2])
    result = estimate(Value(), rows(values), clusters)
    assert result.mean == pytest.approx(values.mean())
    assert result.low < result.mean < result.high


def test_rewards_of_two_values_have_the_interval_of_a_share() -> None:
    right, clusters = binary(np.random.default_rng(2), 0.9, 40), np.arange(40)
    result, share = estimate(Value(), rows(2 * right - 1), clusters), estimate_share(right, clusters)
    assert (result.low, result.high) == pytest.approx((2 * share.low - 1, 2 * share.high - 1))


def test_answers_that_do_not_count_are_left_out() -> None:
    values, clusters = np.array([1.0, np.nan, 0.0, 1.0, np.nan]), np.arange(5)
    assert estimate(Right(), rows(values), clusters) == estimate_share(np.array([1.0, 0.0, 1.0]), np.arange(3))
    nothing = estimate(Right(), rows(np.array([np.nan])), np.arange(1))
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.low)
    infinite = estimate(Value(), rows(np.array([math.inf, 1.0, 2.0])), np.arange(3))
    assert infinite.mean == math.inf
    assert math.isnan(infinite.low)


def f1_rows(texts: np.ndarray) -> np.ndarray:
    return F1().statistics([], [Answer(item="", text=text) for text in texts])


def test_figures_that_are_no_means_are_resampled_within_their_bounds() -> None:
    random = np.random.default_rng(3)
    texts = random.choice(["tp", "wrong", "tn"], p=[0.6, 0.1, 0.3], size=200)
    result = estimate(F1(), f1_rows(texts), np.arange(200))
    hits, wrong = (texts == "tp").sum(), (texts == "wrong").sum()
    assert result.mean == pytest.approx(2 * hits / (2 * hits + wrong))
    assert 0 < result.low < result.mean < result.high <= 1
    assert result.high - result.low == pytest.approx(0.07, abs=0.03)
    assert math.isnan(estimate(F1(), f1_rows(np.array(["tp"] * 20)), np.arange(20)).low)


def test_right_answers_one_per_cluster_have_mcnemars_test_and_tangos_interval() -> None:
    ours = np.array([1.0] * 12 + [0.0] * 2 + [1.0] * 20 + [0.0] * 6)
    theirs = np.array([0.0] * 12 + [1.0] * 2 + [1.0] * 20 + [0.0] * 6)
    result = compare(Right(), rows(ours), rows(theirs), np.arange(40))
    assert result.test is PairedTest.mcnemar
    assert result.p_value == pytest.approx(float(mcnemar_mid_p(12, 2)))
    low, high = (float(end) for end in score_interval(0.25, 0.35, 40))
    assert (result.difference.mean, result.difference.low, result.difference.high) == pytest.approx((0.25, low, high))
    assert (result.ours, result.theirs, result.num_clusters) == (0.8, 0.55, 40)
    assert result.effect_size == pytest.approx(0.25 / theirs.std(ddof=1))
    assert result.gain.mean == pytest.approx(0.25 / 0.55)
    assert result.gain.low < result.gain.mean < result.gain.high
    assert result.win_rate is not None
    assert result.win_rate.mean == pytest.approx((12 + 26 / 2) / 40)
    # (t_{.975} + t_{.8}) of 39 degrees of freedom, by the standard error that the interval shows.
    assert result.detectable == pytest.approx((2.0227 + 0.8512) * (high - low) / (2 * 1.95996), rel=1e-3)


def test_samples_of_one_prompt_are_tested_by_cluster() -> None:
    random = np.random.default_rng(4)
    values = np.repeat(binary(random, 0.5, 8), 5), np.repeat(binary(random, 0.5, 8), 5)
    result = compare(Right(), rows(values[0]), rows(values[1]), np.repeat(np.arange(8), 5))
    assert result.test is PairedTest.sign_flip
    assert result.num_clusters == 8
    once = compare(Value(), rows(values[0][::5] * 2), rows(values[1][::5] * 2), np.arange(8))
    assert result.p_value == once.p_value


def test_interval_and_p_value_agree() -> None:
    random = np.random.default_rng(5)
    rejections = 0
    for number in range(150):
        metric, samples = [(Right(), 1), (Right(), 3), (Value(), 2)][number % 3]
        count = 12 * samples
        ours, theirs = binary(random, 0.75, count), binary(random, 0.35, count)
        if metric == Value():
            ours, theirs = ours + random.normal(size=count), theirs + random.normal(size=count)
        result = compare(metric, rows(ours), rows(theirs), np.repeat(np.arange(12), samples))
        low, high = result.difference.low, result.difference.high
        rejections += result.p_value < 0.05
        if result.p_value >= 0.05:
            assert low <= 0 <= high
        else:
            assert low >= 0 or high <= 0
        assert low <= result.difference.mean <= high
    assert 20 < rejections < 140


def test_exchanged_systems_and_order() -> None:
    random = np.random.default_rng(6)
    ours, theirs, clusters = random.normal(size=30), random.normal(size=30), np.repeat(np.arange(10), 3)
    one, other = (compare(Value(), rows(a), rows(b), clusters) for a, b in ((ours, theirs), (theirs, ours)))
    assert one.difference.mean == pytest.approx(-other.difference.mean)
    assert (one.difference.low, one.difference.high) == pytest.approx((-other.difference.high, -other.difference.low))
    assert one.p_value == other.p_value
    order = random.permutation(30)
    moved = compare(Value(), rows(ours[order]), rows(theirs[order]), np.char.add("提示", clusters[order].astype(str)))
    assert (moved.difference.low, moved.difference.high, moved.p_value) == pytest.approx(
        (one.difference.low, one.difference.high, one.p_value)
    )


def test_paired_rewards_have_the_t_test_almost() -> None:
    random = np.random.default_rng(7)
    theirs = random.normal(scale=5, size=200)
    ours = theirs + random.normal(0.1, 1, size=200)
    result, expected = compare(Value(), rows(ours), rows(theirs), np.arange(200)), stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval()
    assert (result.difference.low, result.difference.high) == pytest.approx((interval.low, interval.high), abs=0.01)
    assert result.p_value == pytest.approx(expected.pvalue, abs=0.02)


def test_a_gain_is_relative_to_the_size_of_the_baseline() -> None:
    random = np.random.default_rng(8)
    theirs = 10 + random.normal(size=400)
    ours = 12 + random.normal(size=400)
    result = compare(Value(), rows(ours), rows(theirs), np.arange(400))
    assert result.gain.mean == pytest.approx(0.2, abs=0.01)
    # Variance of the ratio by the delta method: (.1^2 + .12^2) / 400.
    assert result.gain.high - result.gain.low >= 2 * 1.96 * math.sqrt((0.01 + 0.0144) / 400) * 0.85
    negative = compare(Value(), rows(ours - 20), rows(theirs - 20), np.arange(400))
    assert negative.gain.mean == pytest.approx(0.2, abs=0.01)
    assert math.isnan(compare(Value(), rows(np.ones(4)), rows(np.zeros(4)), np.arange(4)).gain.mean)


def test_equal_systems() -> None:
    right = binary(np.random.default_rng(9), 0.5, 50)
    result = compare(Right(), rows(right), rows(right), np.arange(50))
    assert (result.difference.mean, result.p_value) == (0, 1)
    assert result.difference.low < 0 < result.difference.high
    assert math.isnan(compare(Value(), rows(right), rows(right), np.arange(50)).difference.low)


def test_an_effect_is_written_before_its_p_value() -> None:
    text = str(compare(Right(), rows(np.ones(20)), rows(np.arange(20.0) % 2), np.arange(20)))
    assert text.index("standard deviations") < text.index("p = ")
    assert "20 clusters" in text


def test_f1_of_two_systems() -> None:
    random = np.random.default_rng(10)
    good, bad = (random.choice(["tp", "wrong"], p=[rate, 1 - rate], size=150) for rate in (0.8, 0.5))
    result = compare(F1(), f1_rows(good), f1_rows(bad), np.arange(150) // 2)
    assert result.difference.low > 0
    assert result.p_value < 0.001
    assert result.win_rate is None
    assert math.isnan(result.effect_size)
    assert result.gain.low > 0


def test_different_numbers_of_answers_are_refused() -> None:
    with pytest.raises(InputError, match="same number of samples"):
        compare(Right(), rows(np.ones(4)), rows(np.ones(3)), np.arange(4))


def test_clusters_hold_the_level_of_equal_systems() -> None:
    random = np.random.default_rng(11)
    rejected = 0
    for _ in range(300):
        rates = np.repeat(random.random(12), 4)
        ours, theirs = ((random.random(48) < rates).astype(float) for _ in range(2))
        rejected += compare(Right(), rows(ours), rows(theirs), np.repeat(np.arange(12), 4)).p_value < 0.05
    assert rejected <= 27
