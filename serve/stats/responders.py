"""Users who answered alone: what they say, beside how many of either arm answer. A secondary reading.

Whether a user answers can depend on the arm, so that answers alone compare unlike users, and the arms' planned weights
are not those of the users who answer. The share of the candidate among earlier ones takes their place; the test is then
approximate (false decisions in simulations with changing response rates: `benchmarks/changing_traffic.py`), and decides
nothing by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from serve.stats.sequential import Comparison, Trial, compare, earlier_mean

MEMORY = 100.0
"""Responders over which the candidate's share among them is averaged: with 500 it lags where response rates move, and
a jump of values then calls equal arms different in 38 to 50 %."""
PRIOR = 20.0
"""Responders as which the planned weight counts at the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Responders:
    """The users with a value of their own."""

    values: Comparison
    """Their values; approximate."""
    rates: Comparison
    """Share of users that have one; exact."""


def responders(trial: Trial, *, alpha_higher: float, alpha_lower: float) -> Responders:
    """Compare users who have a value, and how many do. `trial` has NaN for those who have none."""
    answered = ~np.isnan(trial.values)
    some = trial.only(answered)
    alphas = {"alpha_higher": alpha_higher, "alpha_lower": alpha_lower}
    return Responders(
        values=compare(replace(some, probability=earlier_share(some)), **alphas),
        rates=compare(replace(trial, values=answered.astype(float)), **alphas),
    )


def earlier_share(trial: Trial) -> np.ndarray:  # [N]
    """The candidate's share among the users before each, recent ones counting more."""
    if not len(trial):
        return trial.probability
    return earlier_mean(trial.candidate.astype(float), memory=MEMORY, first=float(trial.probability[0]), count=PRIOR)
