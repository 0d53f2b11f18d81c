"""Wilson's and Clopper and Pearson's intervals of a share of independent samples, by their names.

Which one: Wilson's covers 95 % on average over true shares, and suits a figure in a report. Clopper and Pearson's
covers at least 95 % for every true share and is wider; take it where a claim must hold in the worst case, such as
"fewer than 1 % of answers are unsafe". Samples of one prompt are not independent: for those, take
`ops.intervals.share_interval`.
"""

from __future__ import annotations

import numpy as np
from scipy import special


def wilson_interval(
    successes: np.ndarray,  # [...]
    count: np.ndarray,  # [...], at least 1
    alpha: float = 0.05,
) -> tuple[np.ndarray, np.ndarray]:  # [...] each
    """Return the score interval at level 1 - alpha (Wilson 1927)."""
    successes, count = np.asarray(successes, dtype=np.float64), np.asarray(count, dtype=np.float64)
    square = special.ndtri(1 - alpha / 2) ** 2
    weight = count + square
    centre = (successes + square / 2) / weight
    half = np.sqrt(square * (successes * (count - successes) / count + square / 4)) / weight
    # At the ends the root is exactly the centre's distance from 0 or 1, up to rounding.
    low = np.where(successes == 0, 0.0, centre - half)
    return low, np.where(successes == count, 1.0, centre + half)


def clopper_pearson_interval(
    successes: np.ndarray,  # [...] int
    count: np.ndarray,  # [...] int, at least 1
    alpha: float = 0.05,
) -> tuple[np.ndarray, np.ndarray]:  # [...] each
    """Return the exact interval at level 1 - alpha or more (Clopper and Pearson 1934), from quantiles of the beta
    distribution."""
    successes, count = np.asarray(successes, dtype=np.float64), np.asarray(count, dtype=np.float64)
    failures = count - successes
    low = special.betaincinv(np.maximum(successes, 1), failures + 1, alpha / 2)
    high = special.betaincinv(successes + 1, np.maximum(failures, 1), 1 - alpha / 2)
    return np.where(successes == 0, 0.0, low), np.where(failures == 0, 1.0, high)
