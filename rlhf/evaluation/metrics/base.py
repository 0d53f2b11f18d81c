"""Metrics of suites, as functions of sums.

A metric gives each answer a row of statistics, and is a function of the rows' sum. Resampling answers then recomputes
any metric, a mean as well as BLEU or macro-F1, by one matrix product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlhf.evaluation.items import Answer, Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric(ABC):
    """A figure of a suite. Fields of subclasses are its options in the suite's YAML."""

    bounds: ClassVar[tuple[float, float] | None] = None
    """Smallest and largest value of the figure; None: unbounded."""
    larger_is_better: ClassVar[bool | None] = True
    """None: neither direction is better by itself, as for length."""

    @abstractmethod
    def statistics(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:  # [N, D] float64
        """Return one row per answer; `items[i]` is the item of `answers[i]`. The first column is 1, or 0 where the
        metric does not apply to the item; all others of such a row are 0."""

    @abstractmethod
    def figure(self, sums: np.ndarray) -> np.ndarray:  # [..., D] -> [...]
        """Return the figure of summed statistics; NaN where nothing was counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanMetric(Metric):
    """A metric that is the mean of one value per answer."""

    @abstractmethod
    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:  # [N] float64
        """Return the value of each answer; NaN where the metric does not apply to the item."""

    def statistics(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        values = np.asarray(self.values(items, answers), dtype=np.float64)
        counted = ~np.isnan(values)
        return np.stack([counted.astype(np.float64), np.where(counted, values, 0.0)], axis=1)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 1], sums[..., 0])


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator; NaN where the denominator is 0."""
    known = denominator != 0
    return np.where(known, numerator / np.where(known, denominator, 1.0), np.nan)
