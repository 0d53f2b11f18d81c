"""Several tests at once, and the smallest difference that a test of some size detects."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:  # [M] -> [M] float64
    """Return the p-values adjusted for their number (Holm 1979): rejecting those up to alpha rejects any true null
    hypothesis with probability at most alpha, however the tests depend on each other."""
    values = np.asarray(p_values, dtype=np.float64)
    assert ((values >= 0) & (values <= 1)).all()
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def minimum_detectable_effect(
    num_items: int,
    *,
    variance: float,
    samples: int = 1,
    correlation: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """Return the true difference that a two-sided test detects with probability `power`, in the figure's unit.

    `variance` is that of one value: p(1 - p) of a single share p; of a paired comparison that of one difference, which
    for equal models is the discordance, the share of answers where only one of the two is right. `samples` of one item
    have the intraclass correlation `correlation`, so the variance of the mean of K items of m samples is
    variance (1 + (m - 1) rho) / (K m) (Kish 1965, section 5.4). The effect is (t_{1 - alpha/2} + t_{power}) standard
    errors, with K - 1 degrees of freedom; infinite with one item.
    """
    assert variance >= 0
    assert samples >= 1
    assert 0 < alpha < 1
    assert 0 < power < 1
    if num_items < 2:
        return math.inf
    spread = variance * (1 + (samples - 1) * correlation) / (num_items * samples)
    quantiles = special.stdtrit(num_items - 1, np.array([1 - alpha / 2, power]))
    return float(quantiles.sum() * math.sqrt(spread))
