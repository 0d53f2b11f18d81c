"""Two systems on the same items: tests of discordant pairs, and intervals of a difference of shares.

Arrays of shape [..., K] hold one number per cluster; leading axes are independent data sets.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from rlhf.ops.intervals import Z, effective_samples

NUM_BISECTIONS = 50
"""Halvings of [-1, 1], after which an end is exact to 2e-15."""


def mcnemar_exact(
    gained: np.ndarray,  # [...] int, pairs where only our answer is right
    lost: np.ndarray,  # [...] int, pairs where only theirs is
) -> np.ndarray:  # [...]
    """Return the two-sided p-value of McNemar's test, conditional on the number of discordant pairs: a sign test
    (McNemar 1947). It rejects equal systems less often than alpha; 1 without discordant pairs."""
    least, total = discordant_counts(gained, lost)
    return np.minimum(2 * special.bdtr(least, total, 0.5), 1.0)


def mcnemar_mid_p(
    gained: np.ndarray,  # [...] int
    lost: np.ndarray,  # [...] int
) -> np.ndarray:  # [...]
    """Return McNemar's p-value with half the probability of the observed split, which rejects equal systems close to
    alpha and hardly ever more often (Fagerland, Lydersen and Laake 2013)."""
    least, total = discordant_counts(gained, lost)
    observed = special.bdtr(least, total, 0.5) - np.where(least > 0, special.bdtr(least - 1, total, 0.5), 0.0)
    return np.where(2 * least == total, 1.0, 2 * special.bdtr(least, total, 0.5) - observed)


def discordant_counts(gained: np.ndarray, lost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gained, lost = np.asarray(gained, dtype=np.int64), np.asarray(lost, dtype=np.int64)
    return np.minimum(gained, lost).astype(np.float64), gained + lost


def score_interval(
    mean: np.ndarray,  # [...], mean difference, in [-1, 1]
    square: np.ndarray,  # [...], mean of the squared differences; for shares of right answers the discordance
    count: np.ndarray,  # [...], number of independent pairs, not necessarily whole
    quantile: np.ndarray | float = Z,
) -> tuple[np.ndarray, np.ndarray]:  # [...] each
    """Return the score interval of a difference of paired shares (Tango 1998).

    It has a width even without discordant pairs. Differences other than -1, 0 and 1, as of graded answers, are taken
    for those of the three that have the same mean and the same mean square.
    """
    mean, square, count = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in (mean, square, count)))
    # Sides of the interval as a last axis: below and above the mean.
    side = np.array([-1.0, 1.0])
    inside, outside = np.repeat(mean[..., None], 2, axis=-1), np.broadcast_to(side, (*mean.shape, 2)).copy()
    limit = np.asarray(quantile)[..., None] ** 2
    for _ in range(NUM_BISECTIONS):
        middle = (inside + outside) / 2
        variance = constrained_variance(middle, mean[..., None], square[..., None]) / count[..., None]
        keeps = (middle - mean[..., None]) ** 2 <= limit * variance
        inside, outside = np.where(keeps, middle, inside), np.where(keeps, outside, middle)
    return inside[..., 0], inside[..., 1]


def constrained_variance(
    difference: np.ndarray,  # [...], the hypothesis
    mean: np.ndarray,  # [...]
    square: np.ndarray,  # [...]
) -> np.ndarray:  # [...]
    """Return the variance of one pair's difference at the likeliest shares under the hypothesis (Tango 1998)."""
    linear = (2 - mean) * difference - square
    constant = -(square - mean) / 2 * difference * (1 - difference)
    lost = (np.sqrt(np.maximum(linear**2 - 8 * constant, 0.0)) - linear) / 4
    return np.maximum(2 * lost + difference * (1 - difference), 0.0)


def paired_share_interval(
    totals: np.ndarray,  # [..., K], sum of a cluster's differences, which are in [-1, 1]
    sizes: np.ndarray,  # [..., K], number of them
    squares: np.ndarray,  # [..., K], sum of their squares
) -> tuple[np.ndarray, np.ndarray]:  # [...] each
    """Return the interval of the mean difference of pairs that depend on each other within clusters: Tango's, of the
    effective number of pairs that the variance between clusters shows. With one pair in each cluster it is Tango's.
    """
    count = sizes.sum(-1)
    mean, square = totals.sum(-1) / count, squares.sum(-1) / count
    variance = np.maximum(square - mean**2, 0.0)
    # Ties say nothing on the correlation within clusters, so clusters with a difference count as informative.
    effective = effective_samples(totals, sizes, mean, variance, informative=(squares > 0).sum(-1))
    return score_interval(mean, square, effective)
