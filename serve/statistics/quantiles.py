"""Quantiles of values that keep coming: of the latest ones, and of all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

RECENT = 1000
"""The predecessor's latest requests whose quantile stands for its quantile at the moment."""
STRIDE = 25
"""Requests after which that quantile is taken again."""
BEYOND = 5
"""Requests above a quantile without which it is not known: of p95 it takes 100 requests, of p99 500."""
WIDTH = math.log(1.01)
"""Logarithm of a bin's upper end over its lower one."""
LEAST = 1e-6
"""Smaller values, 0 included, are taken as this."""


class QuantileLevels:
    """The predecessor's quantile of the moment, from earlier requests alone."""

    def __init__(self, quantile: float) -> None:
        self.quantile = quantile
        self.recent = np.empty(RECENT)
        self.count = 0
        """Values so far, the latest of which are in `recent`."""
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
            # As np.quantile, which takes ten times as long for so few.
            place = (num - 1) * self.quantile
            below = int(place)
            low, high = np.sort(self.recent[:num])[[below, min(below + 1, num - 1)]]
            self.level, self.since = float(low + (high - low) * (place - below)), 0


class Histogram:
    """Values above 0 in bins of 1 %: their quantiles to half of that, in a few numbers however many there are."""

    def __init__(self) -> None:
        self.bins: Counter[int] = Counter()

    def add(self, values: Iterable[float]) -> None:
        self.bins.update(math.floor(math.log(max(value, LEAST)) / WIDTH) for value in values)

    def quantile(self, share: float) -> float | None:
        """The middle of the quantile's bin; None without values."""
        if not self.bins:
            return None
        numbers = sorted(self.bins)
        counts = np.cumsum([self.bins[number] for number in numbers])
        return math.exp((numbers[int(np.searchsorted(counts, share * counts[-1]))] + 0.5) * WIDTH)
