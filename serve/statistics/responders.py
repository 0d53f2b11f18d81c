"""Users who answered alone: what they say, beside how many of either arm answer. A secondary reading.

Whether a user answers can depend on the arm, so that answers alone compare unlike users, and the arms' planned weights
are not those of the users who answer. The share of the candidate among earlier ones takes their place; the test is then
approximate (false decisions in simulations with changing response rates: `benchmarks/changing_traffic.py`), and decides
nothing by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from serve.statistics.sequential import Comparison, ComparisonTest, EarlierMean, Trial

MEMORY = 100.0
"""Responders over which the candidate's share among them is averaged: with 500 it lags where response rates move, and
a jump of values then calls equal arms different in 38 to 50 %."""
PRIOR = 20.0
"""Responders as which the planned weight counts at the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Responders:
    """The users with a value of their own."""

    values: Comparison
    """Comparison of their values; approximate."""
    rates: Comparison
    """Share of users that have one; exact."""


class RespondersTest:
    """Compares users who have a value, and how many do."""

    def __init__(self, *, alpha_higher: float, alpha_lower: float) -> None:
        self.values = ComparisonTest(alpha_higher=alpha_higher, alpha_lower=alpha_lower)
        self.rates = ComparisonTest(alpha_higher=alpha_higher, alpha_lower=alpha_lower)
        self.share: EarlierMean | None = None
        """The candidate's share among users who have a value; None before the first."""

    def add(self, trial: Trial) -> None:
        """Add users; those without a value have NaN."""
        answered = ~np.isnan(trial.values)
        self.rates.add(replace(trial, values=answered.astype(float)))
        some = trial.only(answered)
        if len(some):
            self.share = self.share or share_of_candidate(some)
            self.values.add(replace(some, probability=self.share.before(some.candidate.astype(float))))

    def result(self) -> Responders:
        return Responders(values=self.values.result(), rates=self.rates.result())


def responders(trial: Trial, *, alpha_higher: float, alpha_lower: float) -> Responders:
    """Compare users who have a value, and how many do. `trial` has NaN for those who have none."""
    comparing = RespondersTest(alpha_higher=alpha_higher, alpha_lower=alpha_lower)
    comparing.add(trial)
    return comparing.result()


def share_of_candidate(first: Trial) -> EarlierMean:
    """The candidate's share among earlier users, recent ones counting more; as planned for the first of them."""
    return EarlierMean(memory=MEMORY, first=float(first.probability[0]), count=PRIOR)


def earlier_share(trial: Trial) -> np.ndarray:  # [N]
    """The candidate's share among the users before each."""
    if not len(trial):
        return trial.probability
    return share_of_candidate(trial).before(trial.candidate.astype(float))
