"""Lower confidence bound of a mean, updated as values are added."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serve.statistics.betting import BLOCK, Bets

POINTS = 2**14
"""Number of grid points on [-1, 1] for bounds, which are exact to 1.2e-4 and rounded to the wider interval."""

Estimates = tuple[np.ndarray, np.ndarray]
"""[N] and [N]: estimates of a mean, and the smallest possible value of each."""


class Bound:
    """Lower bound of a mean in [-1, 1], wrong with probability at most `alpha` for all looks together.

    The claims "the mean is at most m" are rejected for every m up to the bound. New values only bet against the next
    point of the grid; once it is rejected, the new bound is computed from all values. That is rare: a bound never
    falls, and the more values there are, the more it takes to move it.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.rejected = 0
        """Index of the largest rejected grid point, or of the grid's lower end."""
        self.next = Bets(alpha)

    def add(self, estimates: np.ndarray, least: np.ndarray) -> None:  # [N], [N]
        self.next.add(estimates - least, limits(self.rejected + 1, least))

    def value(self, whole: Callable[[], Estimates]) -> float:
        """Return the bound; `whole` returns all added values."""
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
    """Return the mean of `estimates - least` if the mean of the estimates is grid point `number`."""
    return np.maximum(point(number) - least, 0.0)
