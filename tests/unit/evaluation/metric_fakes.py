"""Metrics without texts, and statistics of them, for tests of what is made of statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.metrics.base import MeanMetric, Metric, ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Value(MeanMetric):
    """The text, read as a number."""

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        return np.array([float(answer.text) for answer in answers])


@dataclass(frozen=True, slots=True, kw_only=True)
class Right(Value):
    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stars(Value):
    bounds: ClassVar[tuple[float, float] | None] = (1.0, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class F1(Metric):
    """F1 of answers whose text is one of `tp`, `wrong` and `tn`."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def statistics(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        return np.array([[1.0, answer.text == "tp", answer.text == "wrong"] for answer in answers])

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return ratio(2 * sums[..., 1], 2 * sums[..., 1] + sums[..., 2])


def rows(values: np.ndarray) -> np.ndarray:
    """Statistics [N, 2] of values, NaN where the metric does not apply."""
    answers = [Answer(item=str(i), text=str(value)) for i, value in enumerate(values)]
    return Value().statistics([], answers)
