"""Quantiles of a stream of values: of the latest values, and of all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

RECENT = 1000
"""Number of the predecessor's latest requests that determine its current quantile."""
STRIDE = 25
"""Number of requests after which the current quantile is computed again."""
BEYOND = 5
"""Number of requests above a quantile that it needs to be known: p95 needs 100 requests, p99 needs 500."""
WIDTH = math.log(1.01)
"""Logarithm of the ratio of a bin's upper to its lower end."""
LEAST = 1e-6
"""Smallest value of the histogram; smaller values, 0 included, are raised to it."""


class QuantileLevels:
    """The predecessor's current quantile, computed from earlier requests only."""

    def __init__(self, quantile: float) -> None:
        self.quantile = quantile
        self.recent = np.empty(RECENT)
        self.count = 0
        """Number of values so far; the latest are in `recent`."""
        self.level, self.since = float("nan"), 0

    @property
    def known(self) -> bool:
        return not math.isnan(self.level)

    def add(self, values: Sequence[float]) -> None:
        for value in values:
            self.recent[self.count % RECENT] = value
            self.count += 1
        self.since += len(values)
        num = min(self.count, RECENT)
        if num * (1 - self.quantile) >= BEYOND and (self.since >= STRIDE or not self.known):
            # The same as np.quantile, which takes ten times as long for so few values.
            place = (num - 1) * self.quantile
            below = int(place)
            low, high = np.sort(self.recent[:num])[[below, min(below + 1, num - 1)]]
            self.level, self.since = float(low + (high - low) * (place - below)), 0


class Histogram:
    """Histogram of values above 0 in bins of 1 %, for quantiles exact to 0.5 % in constant memory."""

    def __init__(self) -> None:
        self.bins: Counter[int] = Counter()

    def add(self, values: Iterable[float]) -> None:
        self.bins.update(math.floor(math.log(max(value, LEAST)) / WIDTH) for value in values)

    def quantile(self, share: float) -> float | None:
        """Return the middle of the quantile's bin; None without values."""
        if not self.bins:
            return None
        numbers = sorted(self.bins)
        counts = np.cumsum([self.bins[number] for number in numbers])
        return math.exp((numbers[int(np.searchsorted(counts, share * counts[-1]))] + 0.5) * WIDTH)
