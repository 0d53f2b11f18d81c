"""Sample-ratio test: whether the arms of an experiment got the planned shares of users."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

ALPHA = 0.001
"""Probability that a correct split is ever called wrong; the usual value for this test."""

CONCENTRATIONS = (10.0, 100.0, 1_000.0, 10_000.0)
"""Concentrations of the Dirichlet priors around the planned weights that model a wrong split, with a deviation of about
sqrt(w * (1 - w) / concentration), from gross to slight. Their Bayes factors are averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRatio:
    """Users by arm, and the test against the planned weights."""

    counts: Mapping[str, int]
    """Users by arm."""
    expected: Mapping[str, float]
    p_value: float
    """p-value of the planned weights, valid for all looks together."""
    mismatched: bool
    """True if the split differs from the plan: users were lost, probably not at random, so the experiment's result is
    invalid."""


def log_bayes_factor(
    counts: np.ndarray,  # [N, A], users by arm after each exposure
    weights: np.ndarray,  # [A], above 0
    concentration: float,
) -> np.ndarray:  # [N]
    """Return the log Bayes factor of the Dirichlet-multinomial against the planned multinomial (Lindon and Malek
    2022)."""
    prior = concentration * weights
    totals = counts.sum(axis=1)
    imagined = (
        gammaln(concentration)
        - gammaln(concentration + totals)
        + (gammaln(prior + counts) - gammaln(prior)).sum(axis=1)
    )
    return imagined - counts @ np.log(weights)


class ArmCounts:
    """Sample-ratio mismatch of the users' arms, one per user in order of first exposure, against planned weights.

    Anytime valid: the Bayes factor of a correct split ever reaches 1/alpha with probability at most alpha, so it may be
    looked at after every user, and its maximum so far decides: a mismatch stays. A user in an arm of weight 0 is a
    mismatch at once.
    """

    def __init__(self, weights: Mapping[str, float], *, alpha: float = ALPHA) -> None:
        self.weights, self.alpha = weights, alpha
        self.names = [arm for arm, weight in weights.items() if weight > 0]
        self.counts = dict.fromkeys(weights, 0)
        self.best = 0.0
        """Largest log Bayes factor so far."""

    def add(self, arms: Sequence[str]) -> None:
        place = {arm: number for number, arm in enumerate(self.names)}
        before = np.array([self.counts[name] for name in self.names])
        for arm in arms:
            self.counts[arm] = self.counts.get(arm, 0) + 1
        if any(arm not in place for arm in arms):
            self.best = math.inf
        if not arms or self.best == math.inf:
            return
        running = before + np.eye(len(self.names))[[place[arm] for arm in arms]].cumsum(axis=0)  # [N, A]
        shares = np.array([self.weights[arm] for arm in self.names])
        factors = np.stack([log_bayes_factor(running, shares, concentration) for concentration in CONCENTRATIONS])
        greatest = float(np.logaddexp.reduce(factors, axis=0).max()) - math.log(len(CONCENTRATIONS))
        self.best = max(self.best, greatest)

    def result(self) -> SampleRatio:
        total = sum(self.counts.values())
        return SampleRatio(
            counts=dict(self.counts),
            expected={arm: weight * total for arm, weight in self.weights.items()},
            p_value=math.exp(-self.best),
            mismatched=self.best >= -math.log(self.alpha),
        )


def check_sample_ratio(arms: Sequence[str], weights: Mapping[str, float], *, alpha: float = ALPHA) -> SampleRatio:
    """Test as `ArmCounts` does, all users at once."""
    counts = ArmCounts(weights, alpha=alpha)
    counts.add(arms)
    return counts.result()
