"""Strengths of several systems from their pairwise comparisons (Bradley and Terry 1952)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special
from scipy.sparse.csgraph import connected_components

from rlhf.ops.intervals import Estimate, Z
from rlhf.types import InputError

ELO_PER_UNIT = 400 / np.log(10)
"""Elo points of one unit of strength, so that 400 points are odds of 10 to 1 (Elo 1978)."""
ELO_CENTRE = 1000.0
"""Elo points of the mean strength, 0."""


class SeparatedError(InputError):
    """Comparisons that do not determine the strengths; `groups` are the systems that can be ranked among each other."""

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self.groups = tuple(tuple(group) for group in groups)
        parts = " and ".join(f"[{', '.join(group)}]" for group in self.groups)
        super().__init__(
            f"strengths of {parts} cannot be put on one scale, as no system of one group both won and lost or tied "
            "against the others: compare them on more prompts, or rank each group by itself"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Strengths:
    """Strengths on the scale of log odds, whose mean is 0: system i beats j with probability sigmoid(s_i - s_j)."""

    names: tuple[str, ...]
    values: np.ndarray  # [S]
    covariance: np.ndarray  # [S, S], inverse of the observed information under the constraint that the sum is 0

    def strength(self, name: str) -> Estimate:
        """Return a system's strength with its 95 % interval."""
        i = self.names.index(name)
        return normal_interval(float(self.values[i]), float(self.covariance[i, i]))

    def difference(self, name: str, other: str) -> Estimate:
        """Return the log odds that one system beats the other, with their 95 % interval."""
        i, j = self.names.index(name), self.names.index(other)
        variance = self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]
        return normal_interval(float(self.values[i] - self.values[j]), float(variance))


def normal_interval(mean: float, variance: float) -> Estimate:
    half = Z * math.sqrt(max(variance, 0.0))
    return Estimate(mean=mean, low=mean - half, high=mean + half)


def elo(strength: Estimate) -> Estimate:
    """Return a strength in Elo points around 1000: only differences have a meaning, 400 points are odds of 10 to 1."""
    mean, low, high = (ELO_CENTRE + ELO_PER_UNIT * value for value in (strength.mean, strength.low, strength.high))
    return Estimate(mean=float(mean), low=float(low), high=float(high))


def bradley_terry(
    wins: np.ndarray,  # [S, S], number of times that the row's system won against the column's; ties are 1/2 in both
    names: Sequence[str],
) -> Strengths:
    """Return the strengths of greatest likelihood, with the inverse of the observed information as covariance.

    The comparisons must be independent. Raises SeparatedError unless every system won or tied, directly or through
    others, against every other (Ford 1957): otherwise the likelihood has no maximum.
    """
    wins = np.array(wins, dtype=np.float64)
    num = len(names)
    assert wins.shape == (num, num)
    assert (wins >= 0).all()
    np.fill_diagonal(wins, 0.0)
    num_groups, labels = connected_components(wins > 0, directed=True, connection="strong")
    if num_groups > 1:
        raise SeparatedError([[names[i] for i in np.flatnonzero(labels == group)] for group in range(num_groups)])
    played = wins + wins.T
    values = likeliest(wins, played) if num > 1 else np.zeros(1)
    covariance = np.linalg.pinv(information(values, played), hermitian=True)
    return Strengths(names=tuple(names), values=values, covariance=covariance)


def likeliest(wins: np.ndarray, played: np.ndarray) -> np.ndarray:  # [S, S], [S, S] -> [S]
    """Return the strengths of greatest likelihood, by Newton's method in a trust region; S is at least 2."""
    num, scale = len(wins), played.sum()
    # The last strength follows from the others: their sum is 0.
    basis = np.vstack([np.eye(num - 1), -np.ones(num - 1)])

    def loss(free: np.ndarray) -> float:
        values = basis @ free
        return float((wins * np.logaddexp(0.0, values[None, :] - values[:, None])).sum() / scale)

    def gradient(free: np.ndarray) -> np.ndarray:
        values = basis @ free
        return basis.T @ (played * special.expit(values[:, None] - values[None, :]) - wins).sum(1) / scale

    def curvature(free: np.ndarray) -> np.ndarray:
        return basis.T @ information(basis @ free, played) @ basis / scale

    start, options = np.zeros(num - 1), {"gtol": 1e-10, "maxiter": 1000}
    optimum = optimize.minimize(loss, start, jac=gradient, hess=curvature, method="trust-exact", options=options)
    return basis @ optimum.x


def information(values: np.ndarray, played: np.ndarray) -> np.ndarray:  # [S], [S, S] -> [S, S]
    """Return the observed information: a weighted Laplacian, whose null space is a shift of all strengths."""
    chances = special.expit(values[:, None] - values[None, :])
    weights = played * chances * (1 - chances)
    return np.diag(weights.sum(1)) - weights
