"""Comparison of responders, the users with feedback, and of the arms' response rates. A secondary analysis.

Whether a user responds can depend on the arm, so a comparison of responders compares different groups of users, and
the arms' planned weights are not those of the responders. The share of the candidate among earlier responders takes
their place; the test is then approximate (false decisions in simulations with changing response rates:
`benchmarks/changing_traffic.py`), and decides nothing by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from serve.statistics.sequential import Comparison, ComparisonTest, EarlierMean, Trial

MEMORY = 100.0
"""Number of responders over which the candidate's share is averaged: with 500 it lags behind changing response rates,
and a jump of values then calls equal arms different in 38 to 50 % of the runs."""
PRIOR = 20.0
"""Number of responders as which the planned weight counts at the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Responders:
    """Results on the users with a value."""

    values: Comparison
    """Comparison of the responders' values; approximate."""
    rates: Comparison
    """Comparison of the arms' shares of users with a value; exact."""


class RespondersTest:
    """Test that compares the users with a value, and the arms' shares of such users."""

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
    """Compare the users with a value, and the arms' shares of such users. `trial` has NaN for users without a value."""
    comparing = RespondersTest(alpha_higher=alpha_higher, alpha_lower=alpha_lower)
    comparing.add(trial)
    return comparing.result()


def share_of_candidate(first: Trial) -> EarlierMean:
    """Start the candidate's share among earlier users, in which recent users count more, at the planned weight."""
    return EarlierMean(memory=MEMORY, first=float(first.probability[0]), count=PRIOR)


def earlier_share(trial: Trial) -> np.ndarray:  # [N]
    """Return the candidate's share among the users before each."""
    if not len(trial):
        return trial.probability
    return share_of_candidate(trial).before(trial.candidate.astype(float))
