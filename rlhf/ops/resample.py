"""Cluster bootstrap of figures of summed statistics, and the permutation test of two systems on the same clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import special

Figure = Callable[[np.ndarray], np.ndarray]
"""Function of summed statistics, [..., D] -> [...]; NaN where nothing was counted."""
NUM_RESAMPLES = 4000
CHUNK_BYTES = 2**24
"""Bytes of the weights that are held at once; counting and casting them takes about four times as many."""
MOST_EXACT = 2**14
"""Largest number of sign patterns that are enumerated."""
LEAST_KNOWN = 0.95
"""Smallest share of resamples that must have a figure, so that the percentiles of those are an interval."""


class BootstrapMethod(StrEnum):
    """Interval of a bootstrap."""

    percentile = "percentile"
    """Quantiles of the resampled figures (Efron and Tibshirani 1993, section 13.3)."""
    bca = "bca"
    """Bias-corrected and accelerated quantiles (Efron 1987; Efron and Tibshirani 1993, section 14.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """A figure with its interval; ends and standard error are NaN if the clusters do not determine them."""

    figure: float
    low: float
    high: float
    standard_error: float
    """Standard deviation of the resampled figures."""


def bootstrap(
    sums: np.ndarray,  # [K, D], statistics of each cluster
    figure: Figure,
    *,
    alpha: float = 0.05,
    method: BootstrapMethod = BootstrapMethod.bca,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Bootstrap:
    """Resample whole clusters and return the figure's interval at level 1 - alpha; K is at least 1.

    The interval is unknown with one cluster, if all resamples give the same figure, or if more than one in twenty has
    none. With few clusters pass `expanded_alpha(alpha, K)`: percentiles alone are too narrow.
    """
    sums = np.asarray(sums, dtype=np.float64)
    whole = float(figure(sums.sum(0)))
    random = np.random.default_rng(seed)
    resampled = np.concatenate([figure(weights @ sums) for weights in resamples(random, len(sums), num_resamples)])
    known = np.sort(resampled[np.isfinite(resampled)])
    unknown = Bootstrap(figure=whole, low=np.nan, high=np.nan, standard_error=np.nan)
    if not np.isfinite(whole) or len(known) < LEAST_KNOWN * num_resamples:
        return unknown
    if known[-1] - known[0] <= 1e-12 * max(abs(known[0]), abs(known[-1])):
        return unknown
    levels = np.array([alpha / 2, 1 - alpha / 2])
    if method is BootstrapMethod.bca:
        levels = bca_levels(levels, known, whole, jackknife(sums, figure))
    low, high = (float(np.quantile(known, level)) for level in levels)
    return Bootstrap(figure=whole, low=low, high=high, standard_error=float(known.std(ddof=1)))


def bootstrap_difference(
    ours: np.ndarray,  # [K, D]
    theirs: np.ndarray,  # [K, D], of the same clusters in the same order
    figure: Figure,
    *,
    alpha: float = 0.05,
    method: BootstrapMethod = BootstrapMethod.bca,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Bootstrap:
    """Return the interval of figure(ours) - figure(theirs); each resample holds the same clusters of both systems."""
    sums, width = side_by_side(ours, theirs)

    def difference(pair: np.ndarray) -> np.ndarray:
        return figure(pair[..., :width]) - figure(pair[..., width:])

    return bootstrap(sums, difference, alpha=alpha, method=method, num_resamples=num_resamples, seed=seed)


def side_by_side(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, int]:  # [K, D], [K, D] -> [K, 2 D], D
    """Return the statistics of both systems side by side, and the number of columns of one."""
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert ours.shape == theirs.shape
    return np.concatenate([ours, theirs], axis=1), ours.shape[1]


def expanded_alpha(alpha: float, num_clusters: int) -> float:
    """Return the smaller alpha at which percentiles of few clusters are as wide as Student's t (Hesterberg 2015,
    "What Teachers Should Know About the Bootstrap")."""
    if num_clusters < 2:
        return alpha
    freedom = num_clusters - 1
    quantile = special.stdtrit(freedom, 1 - alpha / 2) * np.sqrt(num_clusters / freedom)
    return float(2 * special.ndtr(-quantile))


def resamples(random: np.random.Generator, num_clusters: int, num_resamples: int) -> Iterator[np.ndarray]:
    """Yield weights [R, K] float64 of resampled clusters, in chunks of bounded size."""
    chunk = max(1, CHUNK_BYTES // (8 * num_clusters))
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        drawn = random.integers(0, num_clusters, (size, num_clusters))
        drawn += np.arange(size)[:, None] * num_clusters
        weights = np.bincount(drawn.reshape(-1), minlength=size * num_clusters)
        yield weights.reshape(size, num_clusters).astype(np.float64)


def jackknife(sums: np.ndarray, figure: Figure) -> np.ndarray:  # [K, D] -> [K]
    """Return the figure without each of the clusters."""
    return np.asarray(figure(sums.sum(0) - sums))


def bca_levels(levels: np.ndarray, known: np.ndarray, whole: float, left_out: np.ndarray) -> np.ndarray:
    """Return the levels [2] of the quantiles that BCa takes of the sorted figures (Efron and Tibshirani 1993, section
    14.3). Ties count half in the bias, as figures of few clusters repeat."""
    below = (np.searchsorted(known, whole, "left") + np.searchsorted(known, whole, "right")) / (2 * len(known))
    bias = special.ndtri(np.clip(below, 0.5 / len(known), 1 - 0.5 / len(known)))
    residuals = left_out[np.isfinite(left_out)]
    residuals = residuals.mean() - residuals
    spread = (residuals**2).sum()
    acceleration = (residuals**3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
    shifted = bias + special.ndtri(levels)
    # Beyond 1 / acceleration the transformation has no inverse; the outermost quantile is what is left.
    room = 1 - acceleration * shifted
    corrected = special.ndtr(bias + shifted / np.where(room > 0, room, 1.0))
    return np.where(room > 0, corrected, (shifted > 0).astype(np.float64))


def sign_flip_test(
    ours: np.ndarray,  # [K, D]
    theirs: np.ndarray,  # [K, D], of the same clusters in the same order
    figure: Figure,
    *,
    num_permutations: int = 9999,
    seed: int = 0,
) -> float:
    """Return the two-sided p-value of figure(ours) - figure(theirs), if within each cluster it were chance which system
    is which. For means it is the sign-flip test of the clusters' differences (Fisher's randomisation test).

    All 2^K exchanges are counted up to `MOST_EXACT`; above, `num_permutations` random ones with the observed one added,
    so that p is never 0 (Phipson and Smyth 2010). An exchange without a figure counts as extreme.
    """
    pair, width = side_by_side(ours, theirs)
    total, half = pair.sum(0), (pair[:, :width] - pair[:, width:]) / 2
    middle = (total[:width] + total[width:]) / 2
    num_clusters = len(half)

    def distances(signs: np.ndarray) -> np.ndarray:  # [R, K] of -1 and 1 -> [R]
        moved = signs @ half
        return np.abs(figure(middle + moved) - figure(middle - moved))

    (observed,) = distances(np.ones((1, num_clusters)))
    if np.isnan(observed):
        return float("nan")
    least = observed * (1 - 1e-9)

    def count(signs: np.ndarray) -> int:
        return int((~(distances(signs) < least)).sum())

    if 2**num_clusters <= MOST_EXACT:
        patterns = (np.arange(2**num_clusters)[:, None] >> np.arange(num_clusters)) & 1
        return count(2.0 * patterns - 1) / 2**num_clusters
    random = np.random.default_rng(seed)
    chunk, extreme = max(1, CHUNK_BYTES // (8 * num_clusters)), 0
    for start in range(0, num_permutations, chunk):
        size = min(chunk, num_permutations - start)
        extreme += count(2.0 * random.integers(0, 2, (size, num_clusters), dtype=np.int8) - 1)
    return (extreme + 1) / (num_permutations + 1)
