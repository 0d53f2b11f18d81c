"""Candidate against predecessor, tested as often as one likes, under traffic that changes over time.

Every user is put into an arm by chance, with a probability that was recorded at that moment. Then

    x = A (z - f) / w - (1 - A) (z - f) / (1 - w)

(A: 1 in the candidate's arm; w: its probability; z: the user's value; f: a prediction from earlier users alone) has the
mean "value with the candidate less value with the predecessor" for this very user, given everything earlier and
whatever the moment: a busy hour, a trend or an outage moves z, not the mean of x (Horvitz and Thompson 1952; Robins,
Rotnitzky and Zhao 1994). Betting on x (`betting.py`) therefore needs no assumption on how values change over time, and
w may change from user to user. It needs a value of every exposed user, a declared one for silence. f only takes out
variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.signal import lfilter

from serve.stats.betting import Evidence, first_rejection, latest, log_wealth

BISECTIONS = 18
"""Halvings of [-1, 1]: bounds are exact to 1e-5, on the wide side."""
MEMORY = 200.0
"""Users over which a prediction averages: few enough to follow a day's rhythm, enough to add 1/400 to the variance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Users whom chance put into one of two arms, in order of exposure."""

    candidate: np.ndarray
    """[N] bool: whether the user's arm is the candidate's."""
    probability: np.ndarray
    """[N] in (0, 1): of the candidate's arm, as recorded at exposure."""
    values: np.ndarray
    """[N] in [0, 1]; NaN where a user has none."""

    def __len__(self) -> int:
        return len(self.values)

    def only(self, which: np.ndarray | slice) -> Trial:  # [N] bool
        """Some of the users."""
        return Trial(candidate=self.candidate[which], probability=self.probability[which], values=self.values[which])

    def filled(self, value: float) -> Trial:
        """All users, those without a value with this one."""
        return replace(self, values=np.where(np.isnan(self.values), value, self.values))

    @property
    def arms(self) -> tuple[np.ndarray, np.ndarray]:
        """Values of the candidate's and the predecessor's users."""
        return self.values[self.candidate], self.values[~self.candidate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The candidate's mean less the predecessor's, of users' values in [0, 1]."""

    difference: float | None
    """Estimate; None before any user of either arm."""
    low: float
    """Lower bound, wrong with probability at most the first alpha."""
    high: float
    """Upper bound, wrong with probability at most the second alpha."""
    p_value: float
    """p-value of no difference. Sequential: 1/wealth, valid at all looks together."""
    decided: int
    """1: the candidate's mean is higher; -1: it is lower; 0: not known."""
    num_candidate: int
    num_predecessor: int

    @property
    def readable(self) -> bool:
        """Whether one difference fits all users. Not so where it changed over time from one sign to the other, or, in
        as few cases as alpha says, by chance."""
        return self.low <= self.high


def predictions(values: np.ndarray, centre: float = 0.5) -> np.ndarray:  # [N], [N] in [0, 1]
    """Mean of the values before each, recent ones counting more; `centre` before there are any."""
    # A first value of `centre` counts as one user, so that nothing is divided by zero.
    return earlier_mean(values, memory=MEMORY, first=centre, count=1.0)


def earlier_mean(
    values: np.ndarray,  # [N]
    *,
    memory: float,
    first: float,
    count: float,
) -> np.ndarray:  # [N]
    """Mean of the values before each, over about `memory` of them; `first` counts as `count` values before all."""
    if not len(values):
        return values
    decay = [1.0, -(1 - 1 / memory)]
    before = np.concatenate([[count * first], values[:-1]])
    counts = np.concatenate([[count], np.ones(len(values) - 1)])
    return lfilter([1.0], decay, before) / lfilter([1.0], decay, counts)


def effects(trial: Trial, *, ratio: float = 1.0) -> tuple[np.ndarray, np.ndarray]:  # [N], [N]
    """Estimate each user's value with the candidate less `ratio` times that with the predecessor.

    Returns the estimates, whose mean is right given all earlier users, and the least each could have been.
    """
    weight, predicted = trial.probability, predictions(trial.values)
    residual, constant = trial.values - predicted, (1 - ratio) * predicted
    estimates = np.where(trial.candidate, residual / weight, -ratio * residual / (1 - weight)) + constant
    least = -np.maximum(predicted / weight, ratio * (1 - predicted) / (1 - weight)) + constant
    return estimates, least


def compare(trial: Trial, *, alpha_higher: float, alpha_lower: float) -> Comparison:
    """Test whether the arms' means differ, and by how much.

    `alpha_higher` is the probability of calling the candidate's mean higher where it is not, at all looks together,
    `alpha_lower` of calling it lower. The interval is a confidence sequence: all differences not rejected so far, so it
    only ever shrinks. The direction rejected first stays.
    """
    assert in_unit_interval(trial.values)
    up, least_up = effects(trial)
    down, least_down = effects(replace(trial, values=1 - trial.values)) if len(trial) else (up, least_up)
    rises, falls = log_wealth(up - least_up, -least_up), log_wealth(down - least_down, -least_down)
    above, below = first_rejection(rises, alpha_higher), first_rejection(falls, alpha_lower)
    first = min((place for place in (above, below) if place is not None), default=None)
    return Comparison(
        difference=float(up.mean()) if len(trial) else None,
        low=lower_bound(up, least_up, alpha_higher),
        high=-lower_bound(down, least_down, alpha_lower),
        p_value=min(1.0, 2 * math.exp(-max(latest(rises), latest(falls)))),
        decided=0 if first is None or above == below else 1 if first == above else -1,
        num_candidate=int(trial.candidate.sum()),
        num_predecessor=int((~trial.candidate).sum()),
    )


def lower_bound(estimates: np.ndarray, least: np.ndarray, alpha: float) -> float:  # [N], [N]
    """The greatest mean in [-1, 1] that is rejected as too low."""

    def rejects(mean: float) -> bool:
        return latest(log_wealth(estimates - least, np.maximum(mean - least, 0.0))) >= -math.log(alpha)

    return bisect(rejects)


def bisect(rejects: Callable[[float], bool]) -> float:
    """The greatest number in [-1, 1] that is rejected, from below; lower ones are too."""
    low, high = -1.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if rejects(middle) else (low, middle)
    return low


def worse(trial: Trial, *, alpha: float, ratio: float = 1.0, by: float = 0.0) -> Evidence:
    """Test whether the candidate's mean is above `ratio` times the predecessor's plus `by`.

    Where higher is better, test 1 - values.
    """
    assert in_unit_interval(trial.values)
    theirs = np.where(trial.candidate, np.nan, trial.values)
    return beyond(*effects(trial, ratio=ratio), theirs, alpha=alpha, ratio=ratio, by=by)


def worse_paired(
    candidate: np.ndarray,  # [N] in [0, 1]
    predecessor: np.ndarray,  # [N] in [0, 1], of the same users at the same moments
    *,
    alpha: float,
    ratio: float = 1.0,
    by: float = 0.0,
) -> Evidence:
    """Test as `worse` does where every user has both values."""
    assert in_unit_interval(candidate)
    assert in_unit_interval(predecessor)
    estimates = candidate - ratio * predecessor
    return beyond(estimates, np.full(len(candidate), -ratio), predecessor, alpha=alpha, ratio=ratio, by=by)


def beyond(
    estimates: np.ndarray,  # [N], of the candidate's value less `ratio` times the predecessor's
    least: np.ndarray,  # [N], the least each could have been
    predecessor: np.ndarray,  # [N], its values; NaN of the candidate's users
    *,
    alpha: float,
    ratio: float,
    by: float,
) -> Evidence:
    """Test whether the mean of the estimates is above `by`; the mean shown is the one they imply for the candidate."""
    wealth = log_wealth(estimates - least, by - least)
    rejected = first_rejection(wealth, alpha)
    count = len(wealth) if rejected is None else rejected
    theirs = predecessor[:count][~np.isnan(predecessor[:count])]
    baseline = ratio * float(theirs.mean()) if len(theirs) else None
    return Evidence(
        mean=None if baseline is None else baseline + float(estimates[:count].mean()),
        limit=None if baseline is None else baseline + by,
        p_value=math.exp(-latest(wealth)),
        exceeded=rejected is not None,
        num_samples=count,
    )


def in_unit_interval(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())
