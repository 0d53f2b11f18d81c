"""Overall improvement on a baseline: a weighted mean of figures' improvements, with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.evaluation.metrics.base import Metric
from rlhf.ops.intervals import Estimate
from rlhf.ops.resample import NUM_RESAMPLES, expanded_alpha, resamples
from rlhf.types import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Statistics of one metric of both systems on a suite's clusters."""

    metric: Metric
    ours: np.ndarray  # [K, D]
    theirs: np.ndarray  # [K, D]

    def improvement(self, weights: np.ndarray) -> np.ndarray:  # [..., K] -> [...]
        """Return ours minus theirs under weights of the clusters, in the figure's unit, positive where better."""
        sign = 1.0 if self.metric.larger_is_better else -1.0
        return sign * (self.metric.figure(weights @ self.ours) - self.metric.figure(weights @ self.theirs))


def overall_improvement(
    suites: Sequence[Mapping[str, Pair]],  # by metric; metrics of one suite share its clusters
    weights: Sequence[Mapping[str, float]],  # of the same metrics
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return the weighted mean of the improvements and its 95 % percentile interval.

    Clusters are resampled once for all metrics of a suite, whose errors are correlated, and independently for each
    suite. With few clusters the percentiles are moved outwards (`expanded_alpha`).
    """
    total = sum(weight for each in weights for weight in each.values())
    mean, drawn = 0.0, np.zeros(num_resamples)
    for number, (pairs, own) in enumerate(zip(suites, weights, strict=True)):
        num_clusters = len(next(iter(pairs.values())).ours)
        whole, random = np.ones(num_clusters), np.random.default_rng((seed, number))
        mean += sum(own[name] * float(pair.improvement(whole)) for name, pair in pairs.items()) / total
        parts = [
            sum(own[name] * pair.improvement(sample) for name, pair in pairs.items())
            for sample in resamples(random, num_clusters, num_resamples)
        ]
        drawn += np.concatenate(parts) / total
    fewest = min(len(next(iter(pairs.values())).ours) for pairs in suites)
    alpha = expanded_alpha(0.05, fewest)
    if not np.isfinite(drawn).all() or np.ptp(drawn) <= 1e-12 * np.abs(drawn).max(initial=1e-12) or fewest < 2:
        return Estimate(mean=mean, low=float("nan"), high=float("nan"))
    low, high = (float(np.quantile(drawn, level)) for level in (alpha / 2, 1 - alpha / 2))
    return Estimate(mean=mean, low=low, high=high)


def usual_weights(metrics: Mapping[str, Mapping[str, Metric]]) -> dict[str, float]:
    """Return weight 1 for the first metric of each suite that has a better direction, by SUITE/METRIC."""
    weights = {}
    for suite, own in metrics.items():
        first = next((name for name, metric in own.items() if metric.larger_is_better is not None), None)
        if first is not None:
            weights[f"{suite}/{first}"] = 1.0
    return weights


def check_weights(weights: Mapping[str, float], metrics: Mapping[str, Mapping[str, Metric]]) -> None:
    """Raise InputError for a weight of a figure that no suite gives, that has no better direction, or that is not
    positive. `metrics` has the metrics by suite and name."""
    known = {f"{suite}/{name}": metric for suite, own in metrics.items() for name, metric in own.items()}
    for name, weight in weights.items():
        if name not in known:
            raise InputError(f"overall: no suite gives the figure {name}: known are {', '.join(known)}")
        if known[name].larger_is_better is None:
            raise InputError(f"overall: neither direction of {name} is better: leave it out")
        if not weight > 0:
            raise InputError(f"overall: the weight of {name} is {weight}: give a positive number, or leave it out")
