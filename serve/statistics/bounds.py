"""The greatest mean that is rejected as too low, kept while values are added."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serve.statistics.betting import BLOCK, Bets

POINTS = 2**14
"""Points of the grid on [-1, 1] that bounds lie on: they are exact to 1.2e-4, on the wide side."""

Estimates = tuple[np.ndarray, np.ndarray]
"""[N] and [N]: estimates of a mean, and the least that each could have been."""


class Bound:
    """Lower bound of a mean in [-1, 1], wrong with probability at most `alpha` at all looks together.

    Of all the claims "the mean is at most m" those up to the bound are rejected. Bets are made against the next one on
    the grid alone; once it is rejected too, all values are gone through for the new bound. That is seldom: a bound
    never falls, and to move it takes the more values the more there are.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.rejected = 0
        """The greatest point of the grid that is rejected, or its lower end."""
        self.next = Bets(alpha)

    def add(self, estimates: np.ndarray, least: np.ndarray) -> None:  # [N], [N]
        self.next.add(estimates - least, limits(self.rejected + 1, least))

    def value(self, whole: Callable[[], Estimates]) -> float:
        """The bound; `whole` gives all that was added."""
        if self.next.rejected is not None:
            estimates, least = whole()
            self.rejected = self.last_rejected(estimates - least, least)
            self.next = Bets(self.alpha)
            self.add(estimates, least)
        return point(self.rejected)

    def last_rejected(self, gains: np.ndarray, least: np.ndarray) -> int:  # [N], [N]
        low, step = self.rejected + 1, 1
        while low + step < POINTS and self.rejects(low + step, gains, least):
            low, step = low + step, 2 * step
        high = min(low + step, POINTS)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.rejects(middle, gains, least) else (low, middle)
        return low

    def rejects(self, number: int, gains: np.ndarray, least: np.ndarray) -> bool:  # [N], [N]
        bets = Bets(self.alpha)
        for start in range(0, len(gains), BLOCK):
            block = slice(start, start + BLOCK)
            bets.add(gains[block], limits(number, least[block]))
            if bets.rejected is not None:
                return True
        return False


def point(number: int) -> float:
    return -1 + 2 * number / POINTS


def limits(number: int, least: np.ndarray) -> np.ndarray:  # [N]
    """Mean of `estimates - least` where the mean of the estimates is this point of the grid."""
    return np.maximum(point(number) - least, 0.0)
