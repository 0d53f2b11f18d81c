"""Metrics of a step, as sums that ranks and roles can merge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Figures = Callable[[Sequence[float]], Mapping[str, float]]
"""Function of a module from sums to metrics, by the ends of their names."""


@dataclass(slots=True)
class Stats:
    """Weighted means, maxima, and sums with the function that makes metrics of them, by name. Merging the shares
    of a step, in any order, gives the step's metrics."""

    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)
    vectors: dict[str, tuple[list[float], Figures]] = field(default_factory=dict)

    def add(self, name: str, total: float, weight: float) -> None:
        """Count `total`, a sum over `weight` items, towards the mean of `name`."""
        old_total, old_weight = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (old_total + total, old_weight + weight)

    def add_max(self, name: str, value: float) -> None:
        self.maxima[name] = max(value, self.maxima.get(name, float("-inf")))

    def add_vector(self, name: str, values: Sequence[float], figures: Figures) -> None:
        """Add sums, element by element; `figures` makes metrics `name_...` of the step's."""
        old, _ = self.vectors.get(name, ([0.0] * len(values), figures))
        self.vectors[name] = [one + other for one, other in zip(old, values, strict=True)], figures

    def prefixed(self, prefix: str) -> Stats:
        """Return the metrics with a prefix before their names."""
        return Stats(
            {f"{prefix}{name}": pair for name, pair in self.sums.items()},
            {f"{prefix}{name}": value for name, value in self.maxima.items()},
            {f"{prefix}{name}": vector for name, vector in self.vectors.items()},
        )

    def values(self) -> dict[str, float]:
        means = {name: total / weight for name, (total, weight) in self.sums.items() if weight}
        # A maximum over nothing is minus infinity.
        maxima = {name: value for name, value in self.maxima.items() if value > -math.inf}
        return {**means, **maxima, **self.derived()}

    def derived(self) -> dict[str, float]:
        """Return the metrics that follow from merged sums: ratios and percentiles, which do not merge themselves."""
        return {
            f"{name}_{end}": value
            for name, (sums, figures) in self.vectors.items()
            for end, value in figures(sums).items()
        }


def merge(shares: Iterable[Stats]) -> Stats:
    merged = Stats()
    for share in shares:
        for name, (total, weight) in share.sums.items():
            merged.add(name, total, weight)
        for name, value in share.maxima.items():
            merged.add_max(name, value)
        for name, (sums, figures) in share.vectors.items():
            merged.add_vector(name, sums, figures)
    return merged
