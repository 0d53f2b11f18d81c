"""Sequential tests of candidate against predecessor, valid for any number of looks and under changing traffic.

Every user is assigned to an arm at random, with a probability that is recorded at that time. Then

    x = A (z - f) / w - (1 - A) (z - f) / (1 - w)

(A: 1 in the candidate's arm; w: its probability; z: the user's value; f: a prediction from earlier users only) has the
mean "value with the candidate minus value with the predecessor" for this user, given all earlier users and at any time:
a busy hour, a trend or an outage changes z, not the mean of x (Horvitz and Thompson 1952; Robins, Rotnitzky and Zhao
1994). Betting on x (`betting.py`) therefore needs no assumption on how values change over time, and w may differ
between users. It needs a value of every exposed user, a declared one for users without feedback. f only reduces the
variance.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.signal import lfilter

from serve.statistics.betting import Bets, Evidence
from serve.statistics.bounds import Bound

MEMORY = 200.0
"""Number of users over which a prediction averages: few enough to follow the daily cycle, and enough to increase the
variance by only 1/400."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Users assigned at random to one of two arms, in order of exposure."""

    candidate: np.ndarray
    """[N] bool: whether the user's arm is the candidate's."""
    probability: np.ndarray
    """[N] in (0, 1): probability of the candidate's arm, as recorded at exposure."""
    values: np.ndarray
    """[N] in [0, 1]; NaN for a user without a value."""

    def __len__(self) -> int:
        return len(self.values)

    def only(self, which: np.ndarray | slice) -> Trial:  # [N] bool
        """Select some of the users."""
        return Trial(candidate=self.candidate[which], probability=self.probability[which], values=self.values[which])

    def filled(self, value: float) -> Trial:
        """Return all users, with `value` for those without one."""
        return replace(self, values=np.where(np.isnan(self.values), value, self.values))

    @property
    def arms(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of the candidate's and of the predecessor's users."""
        return self.values[self.candidate], self.values[~self.candidate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The candidate's mean minus the predecessor's, of users' values in [0, 1]."""

    difference: float | None
    """Estimate; None before any user of either arm."""
    low: float
    """Lower bound, wrong with probability at most the first alpha."""
    high: float
    """Upper bound, wrong with probability at most the second alpha."""
    p_value: float
    """p-value of no difference. Sequential: 1/wealth, valid for all looks together."""
    decided: int
    """1: the candidate's mean is higher; -1: it is lower; 0: not known."""
    num_candidate: int
    num_predecessor: int

    @property
    def readable(self) -> bool:
        """True if a single difference fits all users; False if the difference changed its sign over time, or, with a
        probability of at most alpha, by chance."""
        return self.low <= self.high


class Trials:
    """Users so far, in order of exposure, in 17 bytes each."""

    def __init__(self) -> None:
        self.parts: list[Trial] = []
        self.num = 0

    def add(self, trial: Trial) -> None:
        self.parts.append(trial)
        self.num += len(trial)

    @property
    def whole(self) -> Trial:
        if len(self.parts) != 1:
            columns = {name: [getattr(part, name) for part in self.parts] for name in ("probability", "values")}
            self.parts = [
                Trial(
                    candidate=np.concatenate([np.zeros(0, bool), *(part.candidate for part in self.parts)]),
                    **{name: np.concatenate([np.zeros(0), *column]) for name, column in columns.items()},
                )
            ]
        return self.parts[0]


class EarlierMean:
    """Mean of the values before each, over about `memory` values; `first` counts as `count` initial values."""

    def __init__(self, *, memory: float, first: float, count: float) -> None:
        self.decay = 1 - 1 / memory
        self.total, self.count = count * first, count
        """Weighted sum and count of the values so far; each later value multiplies the weights by `decay`."""

    def before(self, values: np.ndarray) -> np.ndarray:  # [N] -> [N]
        """Add values; return the mean before each of them."""
        if not len(values):
            return values
        totals = self._decayed(self.total, values)
        counts = self._decayed(self.count, np.ones(len(values)))
        self.total, self.count = float(totals[-1]), float(counts[-1])
        return totals[:-1] / counts[:-1]

    def _decayed(self, start: float, values: np.ndarray) -> np.ndarray:  # [N] -> [N + 1]
        return lfilter([1.0], [1.0, -self.decay], np.concatenate([[start], values]))


def prediction() -> EarlierMean:
    """Return the predictor of a user's value in [0, 1] from the values of earlier users."""
    # The first value counts as one user, so that nothing is divided by zero.
    return EarlierMean(memory=MEMORY, first=0.5, count=1.0)


def predictions(values: np.ndarray) -> np.ndarray:  # [N], [N] in [0, 1]
    """Return the mean of the values before each, in which recent values count more; 0.5 for the first."""
    return prediction().before(values)


def effects(
    trial: Trial, *, ratio: float = 1.0, earlier: EarlierMean | None = None
) -> tuple[np.ndarray, np.ndarray]:  # [N], [N]
    """Estimate each user's value with the candidate minus `ratio` times that with the predecessor.

    Returns the estimates, which are unbiased given all earlier users, and the smallest possible value of each.
    `earlier` is the predictor from the users before these; None if there are none.
    """
    weight, predicted = trial.probability, (earlier or prediction()).before(trial.values)
    residual, constant = trial.values - predicted, (1 - ratio) * predicted
    estimates = np.where(trial.candidate, residual / weight, -ratio * residual / (1 - weight)) + constant
    least = -np.maximum(predicted / weight, ratio * (1 - predicted) / (1 - weight)) + constant
    return estimates, least


class Side:
    """Bets that the candidate's mean is higher, and a lower bound of the difference."""

    def __init__(self, alpha: float) -> None:
        self.earlier = prediction()
        self.bets = Bets(alpha)
        """Bets against the claim of no difference."""
        self.bound = Bound(alpha)
        self.total = 0.0
        """Sum of the estimates."""

    def add(self, trial: Trial) -> None:
        estimates, least = effects(trial, earlier=self.earlier)
        self.total += float(estimates.sum())
        self.bets.add(estimates - least, -least)
        self.bound.add(estimates, least)


class ComparisonTest:
    """Test whether the arms' means differ, and by how much.

    `alpha_higher` is the probability of falsely calling the candidate's mean higher, for all looks together,
    `alpha_lower` of falsely calling it lower. The interval is a confidence sequence: all differences not rejected so
    far, so it never grows. The direction that is decided first stays.
    """

    def __init__(self, *, alpha_higher: float, alpha_lower: float) -> None:
        self.up, self.down = Side(alpha_higher), Side(alpha_lower)
        self.users = Trials()
        self.num_candidate = 0

    def add(self, trial: Trial) -> None:
        """Add users, all with a value."""
        assert in_unit_interval(trial.values)
        self.users.add(trial)
        self.num_candidate += int(trial.candidate.sum())
        self.up.add(trial)
        self.down.add(flip(trial))

    def result(self) -> Comparison:
        num, rises, falls = self.users.num, self.up.bets, self.down.bets
        first = min((bets.rejected for bets in (rises, falls) if bets.rejected is not None), default=None)
        return Comparison(
            difference=self.up.total / num if num else None,
            low=self.up.bound.value(lambda: effects(self.users.whole)),
            # Avoids -0.0.
            high=0.0 - self.down.bound.value(lambda: effects(flip(self.users.whole))),
            p_value=min(1.0, 2 * min(rises.p_value, falls.p_value)),
            decided=0 if first is None or rises.rejected == falls.rejected else 1 if first == rises.rejected else -1,
            num_candidate=self.num_candidate,
            num_predecessor=num - self.num_candidate,
        )


def flip(trial: Trial) -> Trial:
    """Return the trial with 1 - values, so that higher is better instead of lower."""
    return replace(trial, values=1 - trial.values)


def compare(trial: Trial, *, alpha_higher: float, alpha_lower: float) -> Comparison:
    """Test as `ComparisonTest` does, all users at once."""
    comparing = ComparisonTest(alpha_higher=alpha_higher, alpha_lower=alpha_lower)
    comparing.add(trial)
    return comparing.result()


@dataclass(slots=True)
class WorseningTest:
    """Test whether the candidate's mean is above `ratio` times the predecessor's plus `by`.

    If higher is better, test 1 - values. The reported mean is the one that the estimates imply for the candidate.
    """

    bets: Bets
    ratio: float = 1.0
    by: float = 0.0
    earlier: EarlierMean = field(default_factory=prediction)
    total: float = 0.0
    """Sum of the estimates until the rejection."""
    theirs: float = 0.0
    """Sum of the predecessor's values until the rejection."""
    num_theirs: int = 0

    def add(self, trial: Trial) -> None:
        """Add users of either arm."""
        assert in_unit_interval(trial.values)
        estimates, least = effects(trial, ratio=self.ratio, earlier=self.earlier)
        self._bet(estimates, least, trial.values, ~trial.candidate)

    def add_pairs(self, candidate: np.ndarray, predecessor: np.ndarray) -> None:  # [N], [N], both in [0, 1]
        """Add users with values of both arms at the same time."""
        assert in_unit_interval(candidate)
        assert in_unit_interval(predecessor)
        least = np.full(len(candidate), -self.ratio)
        self._bet(candidate - self.ratio * predecessor, least, predecessor, np.ones(len(candidate), bool))

    def _bet(self, estimates: np.ndarray, least: np.ndarray, values: np.ndarray, theirs: np.ndarray) -> None:
        until = slice(self.bets.add(estimates - least, self.by - least))
        self.total += float(estimates[until].sum())
        self.theirs += float(values[until][theirs[until]].sum())
        self.num_theirs += int(theirs[until].sum())

    def evidence(self) -> Evidence:
        bets = self.bets
        count = bets.num_values if bets.rejected is None else bets.rejected
        baseline = self.ratio * self.theirs / self.num_theirs if self.num_theirs else None
        return Evidence(
            mean=None if baseline is None else baseline + self.total / count,
            limit=None if baseline is None else baseline + self.by,
            p_value=bets.p_value,
            exceeded=bets.rejected is not None,
            num_samples=count,
        )


def worse(trial: Trial, *, alpha: float, ratio: float = 1.0, by: float = 0.0) -> Evidence:
    """Test as `WorseningTest` does, all users at once."""
    test = WorseningTest(Bets(alpha), ratio, by)
    test.add(trial)
    return test.evidence()


def worse_paired(
    candidate: np.ndarray,  # [N] in [0, 1]
    predecessor: np.ndarray,  # [N] in [0, 1], of the same users at the same times
    *,
    alpha: float,
    ratio: float = 1.0,
    by: float = 0.0,
) -> Evidence:
    """Test as `worse` does, for users with both values."""
    test = WorseningTest(Bets(alpha), ratio, by)
    test.add_pairs(candidate, predecessor)
    return test.evidence()


def in_unit_interval(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())
