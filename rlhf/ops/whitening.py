"""Normalisation to zero mean and unit variance over tokens of several ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of values in float64, precise enough that merged parts equal the moments of the whole."""

    count: float = 0.0
    mean: float = 0.0
    m2: float = 0.0
    """Sum of squared deviations from the mean."""

    @property
    def std(self) -> float:
        """Return the standard deviation of the population."""
        return math.sqrt(self.m2 / self.count) if self.count else 0.0


def moments(values: np.ndarray) -> Moments:  # [N]
    wide: np.ndarray = values.astype(np.float64)
    if not len(wide):
        return Moments()
    mean = float(wide.mean())
    return Moments(float(len(wide)), mean, float(np.square(wide - mean).sum()))


def merge_moments(parts: Iterable[Moments]) -> Moments:
    """Merge into the moments of all values together (Chan, Golub and LeVeque 1979). The order affects only the last
    bits."""
    total = Moments()
    for part in parts:
        count = total.count + part.count
        if count:
            delta = part.mean - total.mean
            mean = total.mean + delta * part.count / count
            total = Moments(count, mean, total.m2 + part.m2 + delta**2 * total.count * part.count / count)
    return total


def whiten(
    values: np.ndarray,  # [N] float32
    over: Moments,
) -> np.ndarray:  # [N] float32
    """Normalise to zero mean and unit variance with the moments of all values."""
    return ((values - over.mean) / (over.std + 1e-8)).astype(np.float32)
