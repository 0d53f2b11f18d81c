"""A metric's figure with its interval, and the comparison of two systems on the same answers.

Answers within a cluster, such as samples of one prompt or questions on one passage, are not independent: every interval
and test is by cluster. `benchmarks/gate_rates.py` prints how often the intervals contain the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from rlhf.evaluation.metrics.base import MeanMetric, Metric
from rlhf.evaluation.preference import points
from rlhf.ops.intervals import Estimate, Z, agreeing, by_prompt, estimate_share, mean_interval, share_interval
from rlhf.ops.multiplicity import minimum_detectable_effect
from rlhf.ops.paired import mcnemar_mid_p, paired_share_interval
from rlhf.ops.resample import bootstrap, bootstrap_difference, expanded_alpha, side_by_side, sign_flip_test
from rlhf.types import InputError

NAN = float("nan")
Ends = tuple[float, float]
UNKNOWN: Ends = (NAN, NAN)


class PairedTest(StrEnum):
    """Test of two systems on the same clusters."""

    mcnemar = "McNemar mid-p"
    """Right or wrong answers, one in each cluster."""
    sign_flip = "sign flips by cluster"
    """All others: exchanges of the two systems within clusters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two systems on the same items. Interval and p-value agree at .05 whether the difference is 0."""

    ours: float
    """The metric's figure of our system."""
    theirs: float
    """The figure of the baseline."""
    difference: Estimate
    """Ours minus theirs, in the figure's unit."""
    gain: Estimate
    """Difference as a share of the baseline's absolute figure; NaN if that is 0."""
    win_rate: Estimate | None
    """Share of answers with the larger value, ties half; None if the metric is no mean of values per answer."""
    deviation: float
    """Standard deviation of the baseline's answers; NaN if unknown, 0 if all are equal."""
    p_value: float
    """Two-sided; NaN without a difference."""
    test: PairedTest
    num_clusters: int
    detectable: float
    """True difference that as many clusters detect with probability .8 at .05; NaN without an interval."""

    @property
    def effect_size(self) -> float:
        """Difference in standard deviations of the baseline's answers; NaN if those are unknown or all equal."""
        return self.difference.mean / self.deviation if self.deviation > 0 else NAN

    def __str__(self) -> str:
        size = f", {self.effect_size:+.2g} baseline standard deviations" if self.effect_size == self.effect_size else ""
        return (
            f"difference {self.difference}{size}, p = {self.p_value:.3g} ({self.test}), {self.num_clusters} clusters, "
            f"detectable difference {self.detectable:.2g}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Differences of paired answers by cluster, for metrics that are means."""

    values: np.ndarray  # [N]
    clusters: np.ndarray  # [N] int
    totals: np.ndarray  # [K]
    sizes: np.ndarray  # [K]
    squares: np.ndarray  # [K]


def estimate(
    metric: Metric,
    statistics: np.ndarray,  # [N, D], of `metric.statistics`
    clusters: np.ndarray,  # [N], equal for answers that depend on each other
) -> Estimate:
    """Return the metric's figure and its 95 % interval; the ends are NaN if the clusters do not determine them.

    The estimate is the metric's figure: every answer counts alike, so that large clusters count more. A mean with
    bounds, or of two values, has the interval of a share (`share_interval`), another mean that of Student's t and
    Hall's cubic (`mean_interval`), and any other metric BCa's by resampling clusters.
    """
    statistics, places = counted_rows(statistics, clusters)
    figure = float(metric.figure(statistics.sum(0)))
    if not np.isfinite(statistics).all() or not np.isfinite(figure):
        return Estimate(mean=figure, low=NAN, high=NAN)
    if isinstance(metric, MeanMetric):
        low, high = mean_ends(metric, statistics[:, 1], places)
    else:
        sums = cluster_sums(statistics, places)
        sampled = bootstrap(sums, metric.figure, alpha=expanded_alpha(0.05, len(sums)))
        low, high = sampled.low, sampled.high
    bottom, top = metric.bounds or (-np.inf, np.inf)
    return Estimate(mean=figure, low=float(np.clip(low, bottom, top)), high=float(np.clip(high, bottom, top)))


def compare(
    metric: Metric,
    ours: np.ndarray,  # [N, D], of `metric.statistics`
    theirs: np.ndarray,  # [N, D], of the same items and samples in the same order
    clusters: np.ndarray,  # [N], equal for answers that depend on each other
) -> Comparison:
    """Compare two systems on the same items, paired by cluster.

    A mean with bounds has Tango's interval of the effective number of pairs, another mean that of Student's t and
    Hall's cubic, any other metric BCa's of resampled clusters. An end that contradicts the test is moved to 0. Raises
    InputError if the systems have different numbers of answers.
    """
    if ours.shape != theirs.shape:
        raise InputError(
            f"the system has {len(ours)} answers and its baseline {len(theirs)}: evaluate both on the same items with "
            "the same number of samples"
        )
    both, places = counted_rows(np.concatenate([ours, theirs], axis=1), clusters, ours.shape[1])
    ours, theirs = both[:, : ours.shape[1]], both[:, ours.shape[1] :]
    sums = cluster_sums(ours, places), cluster_sums(theirs, places)
    own, other = (float(metric.figure(each.sum(0))) for each in (ours, theirs))
    is_mean = isinstance(metric, MeanMetric)
    ends, wide, p_value, test, win_rate = UNKNOWN, UNKNOWN, NAN, PairedTest.sign_flip, None
    if np.isfinite(both).all() and np.isfinite(own - other):
        pairs = pairs_of(ours, theirs, places) if is_mean and (ours[:, 0] == theirs[:, 0]).all() else None
        ends = pair_ends(metric, pairs) if pairs else resampled_ends(metric, *sums)
        wide = gain_ends(metric, *sums)
        p_value, test = test_of(metric, ours, theirs, pairs, sums)
        win_rate = estimate_share(points(pairs.values), pairs.clusters) if pairs else None
    # NaN compares false, so that unknown ends stay unknown.
    low, high = agreeing(ends, p_value, own - other, null=0.0) if ends[0] <= ends[1] else UNKNOWN
    return Comparison(
        ours=own,
        theirs=other,
        difference=Estimate(mean=own - other, low=low, high=high),
        gain=gain_of(own - other, (low, high), wide, abs(other)),
        win_rate=win_rate,
        deviation=deviation_of(theirs) if is_mean else NAN,
        p_value=p_value,
        test=test,
        num_clusters=len(sums[0]),
        detectable=detectable_of(ends, len(sums[0])),
    )


def detectable_of(ends: Ends, num_clusters: int) -> float:
    """Return the detectable difference at the standard error that an interval shows."""
    error = (ends[1] - ends[0]) / (2 * Z)
    return minimum_detectable_effect(num_clusters, variance=num_clusters * error**2) if error >= 0 else NAN


def counted_rows(statistics: np.ndarray, clusters: np.ndarray, width: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that count, for either system if the second's begin at column `width`, and their clusters as
    numbers from 0."""
    statistics = np.asarray(statistics, dtype=np.float64)
    assert len(statistics) == len(clusters)
    kept = (statistics[:, 0] != 0) | (statistics[:, width] != 0)
    return statistics[kept], np.unique(np.asarray(clusters)[kept], return_inverse=True)[1]


def cluster_sums(statistics: np.ndarray, places: np.ndarray) -> np.ndarray:  # [N, D], [N] -> [K, D]
    sums = np.zeros((places.max(initial=-1) + 1, statistics.shape[1]))
    np.add.at(sums, places, statistics)
    return sums


def deviation_of(statistics: np.ndarray) -> float:
    values = statistics[statistics[:, 0] != 0, 1]
    return float(values.std(ddof=1)) if len(values) > 1 else NAN


def mean_ends(metric: MeanMetric, values: np.ndarray, places: np.ndarray) -> Ends:
    """Return the interval of a mean over answers."""
    bottom, top = float(values.min()), float(values.max())
    if metric.bounds is None and bottom < top and ((values == bottom) | (values == top)).all():
        span = (bottom, top)
    else:
        span = metric.bounds or (NAN, NAN)
    if np.isfinite(span).all():
        scaled = by_prompt((values - span[0]) / (span[1] - span[0]), places)
        low, high = (span[0] + (span[1] - span[0]) * end for end in share_interval(*scaled))
    else:
        totals, sizes, _ = by_prompt(values, places)
        low, high = mean_interval(pseudo_values(totals, sizes))
    return float(low), float(high)


def pseudo_values(totals: np.ndarray, sizes: np.ndarray) -> np.ndarray:  # [K], [K] -> [K]
    """Return one value per cluster whose mean is the mean over answers and whose variance is that mean's by K
    (linearisation of a ratio, Cochran 1977, chapter 6); for clusters of one size, their means."""
    mean = totals.sum() / sizes.sum()
    return mean + (totals - mean * sizes) / sizes.mean()


def pairs_of(ours: np.ndarray, theirs: np.ndarray, places: np.ndarray) -> Pairs:
    values = ours[:, 1] - theirs[:, 1]
    totals, sizes, squares = by_prompt(values, places)
    return Pairs(values=values, clusters=places, totals=totals, sizes=sizes, squares=squares)


def pair_ends(metric: Metric, pairs: Pairs) -> Ends:
    """Return the interval of a mean of paired differences."""
    if metric.bounds is None:
        low, high = mean_interval(pseudo_values(pairs.totals, pairs.sizes))
    else:
        span = metric.bounds[1] - metric.bounds[0]
        ends = paired_share_interval(pairs.totals / span, pairs.sizes, pairs.squares / span**2)
        low, high = (span * end for end in ends)
    return float(low), float(high)


def resampled_ends(metric: Metric, ours: np.ndarray, theirs: np.ndarray) -> Ends:
    sampled = bootstrap_difference(ours, theirs, metric.figure, alpha=expanded_alpha(0.05, len(ours)))
    return sampled.low, sampled.high


def gain_ends(metric: Metric, ours: np.ndarray, theirs: np.ndarray) -> Ends:  # [K, D] each
    """Return the interval of the relative gain (ours - theirs) / |theirs|, with the baseline's own uncertainty."""
    sums, width = side_by_side(ours, theirs)

    def gain(pair: np.ndarray) -> np.ndarray:
        baseline = metric.figure(pair[..., width:])
        known = baseline != 0
        ratio = (metric.figure(pair[..., :width]) - baseline) / np.where(known, np.abs(baseline), 1.0)
        return np.where(known, ratio, np.nan)

    if not isinstance(metric, MeanMetric):
        sampled = bootstrap(sums, gain, alpha=expanded_alpha(0.05, len(sums)))
        return sampled.low, sampled.high
    own, (count, total) = ours[:, 1] / ours[:, 0].sum(), theirs.sum(0)
    if total == 0:
        return UNKNOWN
    # Derivative of the ratio of means by each cluster's weight.
    mean = total / count
    residuals = own - ours[:, 0] * own.sum() / ours[:, 0].sum()
    residuals = residuals - own.sum() / mean * (theirs[:, 1] - mean * theirs[:, 0]) / count
    low, high = mean_interval(float(gain(sums.sum(0))) + len(sums) * residuals / abs(mean))
    return float(low), float(high)


def gain_of(difference: float, ends: Ends, wide: Ends, baseline: float) -> Estimate:
    """Return the relative gain with the hull of its own interval and of the difference's, so that a gain is not
    certain where the difference is not."""
    if not baseline > 0:
        return Estimate(mean=NAN, low=NAN, high=NAN)
    low, high = np.fmin(wide[0], ends[0] / baseline), np.fmax(wide[1], ends[1] / baseline)
    return Estimate(mean=difference / baseline, low=float(low), high=float(high))


def test_of(
    metric: Metric, ours: np.ndarray, theirs: np.ndarray, pairs: Pairs | None, sums: tuple[np.ndarray, np.ndarray]
) -> tuple[float, PairedTest]:
    """Return the p-value of equal systems and the test's name."""
    values = np.concatenate([ours[:, 1], theirs[:, 1]])
    if pairs and (pairs.sizes == 1).all() and np.isin(values, (0.0, 1.0)).all():
        return float(mcnemar_mid_p((pairs.values > 0).sum(), (pairs.values < 0).sum())), PairedTest.mcnemar
    return sign_flip_test(*sums, metric.figure), PairedTest.sign_flip
