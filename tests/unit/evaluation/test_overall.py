"""Overall improvement: its value, its interval against simulation, and areas."""

import numpy as np
import pytest

from rlhf.evaluation.metrics.exact import ExactMatch
from rlhf.evaluation.metrics.shape import Length, Truncation
from rlhf.evaluation.overall import Pair, check_weights, overall_improvement, usual_weights
from rlhf.types import InputError


def pair(metric, ours, theirs) -> Pair:
    """A mean of one answer in each cluster."""
    sums = [np.stack([np.ones(len(each)), np.asarray(each, dtype=float)], axis=1) for each in (ours, theirs)]
    return Pair(metric=metric, ours=sums[0], theirs=sums[1])


def test_it_is_the_weighted_mean_of_improvements():
    # +0.5 of right answers, and truncation down by 0.25, which is better.
    suites = [{"exact_match": pair(ExactMatch(), [1, 1, 1, 0], [1, 0, 0, 0]),
               "truncation": pair(Truncation(), [0, 0, 0, 0], [0, 0, 0, 1])}]  # fmt: skip
    found = overall_improvement(suites, [{"exact_match": 3.0, "truncation": 1.0}])
    assert found.mean == pytest.approx((3 * 0.5 + 1 * 0.25) / 4)
    assert found.low < found.mean < found.high


def test_equal_answers_have_no_interval():
    same = {"exact_match": pair(ExactMatch(), [1, 0, 1, 0], [1, 0, 1, 0])}
    found = overall_improvement([same], [{"exact_match": 1.0}])
    assert found.mean == 0
    assert np.isnan(found.low)


def test_two_metrics_of_the_same_items_are_no_independent_evidence():
    random = np.random.default_rng(0)
    ours, theirs = random.random((2, 200)) < 0.5
    one = {"a": pair(ExactMatch(), ours, theirs)}
    twice = one | {"b": pair(ExactMatch(), ours, theirs)}
    single = overall_improvement([one], [{"a": 1.0}])
    double = overall_improvement([twice], [{"a": 1.0, "b": 1.0}])
    apart = overall_improvement([one, one], [{"a": 1.0}, {"a": 1.0}])
    assert (double.mean, double.low, double.high) == pytest.approx((single.mean, single.low, single.high))
    assert (apart.high - apart.low) / (single.high - single.low) == pytest.approx(1 / np.sqrt(2), rel=0.1)


def test_intervals_contain_the_truth_as_often_as_stated():
    random, truth = np.random.default_rng(1), 0.5 * (0.7 - 0.6) + 0.5 * (0.3 - 0.4)
    hits, num_trials = 0, 300
    for _ in range(num_trials):
        suites = [{"m": pair(ExactMatch(), random.random(60) < ours, random.random(60) < theirs)}
                  for ours, theirs in ((0.7, 0.6), (0.3, 0.4))]  # fmt: skip
        found = overall_improvement(suites, [{"m": 1.0}, {"m": 1.0}], num_resamples=500)
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / num_trials <= 0.98


def test_weights_are_of_figures_that_have_a_better_direction():
    metrics = {"own": {"length": Length(), "exact_match": ExactMatch()}}
    assert usual_weights(metrics) == {"own/exact_match": 1.0}
    for weights, sentence in (({"own/f1": 1.0}, "known are own/length, own/exact_match"),
                              ({"own/length": 1.0}, "neither direction of own/length is better"),
                              ({"own/exact_match": 0.0}, "give a positive number")):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            check_weights(weights, metrics)
