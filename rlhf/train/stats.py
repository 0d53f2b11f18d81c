"""Metrics of a step, as sums that ranks and roles can merge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stats:
    """Weighted means and maxima by name. Merging the shares of a step, in any order, gives the step's metrics."""

    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, total: float, weight: float) -> None:
        """Count `total`, a sum over `weight` items, towards the mean of `name`."""
        old_total, old_weight = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (old_total + total, old_weight + weight)

    def add_max(self, name: str, value: float) -> None:
        self.maxima[name] = max(value, self.maxima.get(name, float("-inf")))

    def prefixed(self, prefix: str) -> Stats:
        """Return the metrics with a prefix before their names."""
        return Stats(
            {f"{prefix}{name}": pair for name, pair in self.sums.items()},
            {f"{prefix}{name}": value for name, value in self.maxima.items()},
        )

    def values(self) -> dict[str, float]:
        means = {name: total / weight for name, (total, weight) in self.sums.items() if weight}
        return {**means, **self.maxima}


def merge(shares: Iterable[Stats]) -> Stats:
    merged = Stats()
    for share in shares:
        for name, (total, weight) in share.sums.items():
            merged.add(name, total, weight)
        for name, value in share.maxima.items():
            merged.add_max(name, value)
    return merged
