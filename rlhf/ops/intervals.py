"""95 % intervals of shares and means over prompts; samples of one prompt are not independent.

`benchmarks/interval_coverage.py` prints how often each contains the truth. Arrays of shape [..., K] hold one number per
prompt; leading axes are independent data sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

Z = 1.959963984540054
"""Standard deviations around the mean that hold 95 % of a normal distribution."""
PSEUDO = Z * Z / 2
"""Number of pseudo-samples of value 0, and of value 1, that Agresti and Coull add."""
PRIOR = 2.0
"""Number of prompts with the rarer outcome below which the correlation within prompts counts as mostly unknown."""
LEAST_FOR_SKEWNESS = 5
"""Smallest number of prompts whose means' skewness is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and its 95 % interval; the ends are NaN if the data does not determine the uncertainty."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:.4g} (no interval)"
        return f"{self.mean:.4g} ({self.low:.4g} to {self.high:.4g})"


def estimate_share(
    values: np.ndarray,  # [N], in [0, 1]
    prompts: np.ndarray,  # [N] int, equal for samples of one prompt
) -> Estimate:
    """Return the mean of values in [0, 1], such as successes, and its interval; N is at least 1."""
    assert np.isfinite(values).all()
    totals, sizes, squares = by_prompt(values, prompts)
    low, high = share_interval(totals, sizes, squares)
    return Estimate(mean=float(totals.sum() / sizes.sum()), low=float(low), high=float(high))


def estimate_mean(
    values: np.ndarray,  # [N]
    prompts: np.ndarray,  # [N] int, equal for samples of one prompt
) -> Estimate:
    """Return the mean over prompts of each prompt's mean, and its interval; N is at least 1.

    If all values are one of two numbers, such as rewards of 0 or 1, the interval is that of a share. Infinite values,
    such as the KL to a model that excludes a token, have no interval.
    """
    totals, sizes, _ = by_prompt(values, prompts)
    means = totals / sizes
    if not np.isfinite(values).all():
        return Estimate(mean=float(means.mean()), low=float("nan"), high=float("nan"))
    bottom, top = float(np.min(values)), float(np.max(values))
    is_top = np.asarray(values) == top
    if bottom < top and np.all(is_top | (np.asarray(values) == bottom)):
        shares = by_prompt(is_top, prompts)[0] / sizes
        # Every prompt counts the same, whatever the number of its samples; their harmonic mean keeps the variance.
        size = np.full_like(sizes, len(sizes) / (1 / sizes).sum())
        low, high = (bottom + (top - bottom) * end for end in share_interval(shares * size, size, shares * size))
    else:
        low, high = mean_interval(means)
    return Estimate(mean=float(means.mean()), low=float(low), high=float(high))


def by_prompt(
    values: np.ndarray,  # [N]
    prompts: np.ndarray,  # [N] int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # [K] each
    """Return each prompt's sum of values, number of values, and sum of squares."""
    values = np.asarray(values, dtype=np.float64)
    assert len(values)
    _, places = np.unique(prompts, return_inverse=True)
    return np.bincount(places, values), np.bincount(places).astype(np.float64), np.bincount(places, values * values)


def share_interval(
    totals: np.ndarray,  # [..., K], sum of a prompt's values, which are in [0, 1]
    sizes: np.ndarray,  # [..., K], number of them
    squares: np.ndarray,  # [..., K], sum of their squares; `totals` where they are 0 or 1
) -> tuple[np.ndarray, np.ndarray]:  # [...] each
    """95 % interval of a mean of values in [0, 1], within [0, 1] and of positive width.

    Agresti and Coull 1998 (Wilson's interval with its ends simplified), of the effective number of samples as in
    surveys (Korn and Graubard 1998; Dean and Pagano 2015). The variance includes the added samples, which for values
    of 0 and 1 is Agresti and Coull's p(1 - p), and for ties of 1/2 is smaller.
    """
    count = sizes.sum(-1)
    mean = totals.sum(-1) / count
    variance = np.maximum(squares.sum(-1) / count - mean**2, 0.0)
    informative = np.minimum((totals > 0).sum(-1), (totals < sizes).sum(-1))
    effective = effective_samples(totals, sizes, mean, variance, informative=informative)
    weight = effective + 2 * PSEUDO
    centre = (effective * mean + PSEUDO) / weight
    spread = (effective * (variance + (mean - centre) ** 2) + PSEUDO * (centre**2 + (1 - centre) ** 2)) / weight
    half = Z * np.sqrt(spread / weight)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def effective_samples(
    totals: np.ndarray,  # [..., K]
    sizes: np.ndarray,  # [..., K]
    mean: np.ndarray,  # [...]
    variance: np.ndarray,  # [...], of single values
    *,
    informative: np.ndarray,  # [...] int, prompts whose samples show how alike samples of one prompt are
) -> np.ndarray:  # [...]
    """Return the effective number of independent samples, n / (1 + (m - 1) rho) (Kish 1965, section 5.4).

    rho, the correlation within prompts, is estimated from the variance between them. If only J prompts are informative,
    such as those with a sample of the rarer outcome, rho moves (PRIOR / (PRIOR + J))^2 of the way towards 1: three
    right samples of three prompts do not show that right samples come singly. At J = 0, all right or all wrong, prompts
    count instead of samples.
    """
    count, num_prompts = sizes.sum(-1), sizes.shape[-1]
    per_prompt = (sizes**2).sum(-1) / count
    residuals = totals - mean[..., None] * sizes
    between = num_prompts / max(num_prompts - 1, 1) * (residuals**2).sum(-1) / count**2
    known = (variance > 1e-12) & (per_prompt > 1) & (num_prompts > 1)
    effect = between * count / np.where(known, variance, 1.0)
    rho = np.clip((effect - 1) / np.where(known, per_prompt - 1, 1.0), -1 / per_prompt, 1.0)
    rho = np.where(known, rho, 1.0)
    rho = rho + (1 - rho) * (PRIOR / (PRIOR + informative)) ** 2
    return count / (1 + (per_prompt - 1) * rho)


def mean_interval(
    means: np.ndarray,  # [..., K], one of each prompt
) -> tuple[np.ndarray, np.ndarray]:  # [...] each
    """95 % interval of the expectation of independent values, which may be skewed; NaN where K is 1 or all are equal.

    The hull of Student's t and, from 5 values, Hall 1992 ("On the removal of skewness by transformation", the cubic).
    Few values underestimate the skewness, so it is multiplied by 1 + 2 / K, and its t has two degrees of freedom fewer.
    """
    num = means.shape[-1]
    centre = means.mean(-1)
    residuals = means - centre[..., None]
    deviation = np.sqrt((residuals**2).sum(-1) / max(num - 1, 1))
    spread = np.ptp(means, axis=-1) > 1e-12 * np.abs(means).max(-1)
    deviation = np.where(spread & (num > 1), deviation, np.nan)
    half = special.stdtrit(max(num - 1, 1), 0.975) / np.sqrt(num) * deviation
    low, high = centre - half, centre + half
    if num < LEAST_FOR_SKEWNESS:
        return low, high
    skewness = (num + 2) / ((num - 1) * (num - 2)) * (residuals**3).sum(-1) / deviation**3
    # The cubic has no inverse in closed form at skewness 0, where it is the identity.
    skewness = np.where(np.abs(skewness) < 1e-6, 1e-6, skewness)
    quantile = special.stdtrit(num - 3, 0.975) / np.sqrt(num)
    ends = [
        centre - deviation * 3 / skewness * (np.cbrt(1 + skewness * (end - skewness / (6 * num))) - 1)
        for end in (quantile, -quantile)
    ]
    return np.minimum(low, ends[0]), np.maximum(high, ends[1])


def agreeing(
    interval: tuple[float, float],
    p_value: float,
    lead: float,
    null: float,
) -> tuple[float, float]:
    """Move an end that contradicts a test at 0.05 to the null hypothesis `null`, so that interval and p-value agree;
    `lead` has the sign of the estimate minus `null`."""
    low, high = interval
    if p_value >= 0.05:
        return min(low, null), max(high, null)
    return (max(low, null), high) if lead > 0 else (low, min(high, null))
