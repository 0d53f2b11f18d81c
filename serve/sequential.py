"""Tests that hold however often one looks: betting against a claim about a mean.

Who bets against "the mean of these non-negative values is at most `limit`" and pays 1 for `x / limit` gains nothing on
average if the claim is true, whatever share (stake) of the money is at risk. So the wealth, which starts at 1, ever
reaches 1/alpha with probability at most alpha (Ville 1939), and a claim against which that much was won is rejected
(Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting"). Every test here is that bet.

Guaranteed, at every sample size and for all looks together, without normality or equal variances: a true claim is
rejected with probability at most alpha. Needed for it: each value's mean given all earlier ones satisfies the claim.
For users that come by chance and count once that is so. It is not where one user's requests, alike among themselves,
are counted as if they were many users' (a guardrail on requests can then ring because of one user), nor where it
depends on a value whether it is known (only content users leave a thumb).

Values are in order of entry, and more of them only ever follow at the end. Then earlier bets never change, and the best
wealth so far decides: what is rejected once stays rejected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

STAKES = 0.9 * 0.5 ** np.arange(8)
"""Eight bettors start with an eighth of the money each and keep to one stake. The best stake is about effect/variance
(Kelly 1956), which nobody knows beforehand: the one nearest to it soon owns most of the money, at a cost of at most
ln 8 of its logarithm. Users needed: `benchmarks/ab_tests.py`."""

BISECTIONS = 18
"""Halvings of [-1, 1]: bounds are exact to 1e-5, on the wide side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The candidate's mean less the predecessor's, of users' values in [0, 1]."""

    difference: float | None
    """None before there is anything to compare."""
    low: float
    """Where it lies, with confidence 1 - alpha."""
    high: float
    p_value: float
    """Of no difference. Sequential: 1/wealth, valid at all looks together."""
    decided: int
    """1: the candidate's mean is higher; -1: it is lower; 0: not known."""
    num_candidate: int
    num_predecessor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Against the claim that a mean is at most its limit."""

    mean: float | None
    """None without samples."""
    limit: float | None
    """None while the predecessor's samples, from which it follows, are too few."""
    p_value: float
    """Of the claim: 1/wealth, valid at all looks together."""
    exceeded: bool
    num_samples: int


def log_wealth(
    values: np.ndarray,  # [N], not negative, in order of entry
    limit: float,
) -> np.ndarray:  # [N]
    """Best logarithm of the wealth up to each value, of betting against "the mean is at most `limit`"; at least 0.

    Falls with the limit, as every single bet does: what rejects a limit rejects all lower ones.
    """
    # A mean of 0 allows nothing above 0, and one such value is proof.
    payoffs = values / limit if limit > 0 else np.where(values > 0, np.inf, 1.0)
    bettors = np.log1p(STAKES[:, None] * (payoffs - 1)).cumsum(axis=1)
    wealth = np.logaddexp.reduce(bettors, axis=0) - math.log(len(STAKES))
    return np.maximum.accumulate(np.maximum(wealth, 0.0))


def best(log_wealths: np.ndarray) -> float:
    return float(log_wealths[-1]) if len(log_wealths) else 0.0


def evidence(
    values: np.ndarray, limit: float, *, alpha: float, mean: float | None, shown_limit: float | None
) -> Evidence:
    """Of a bet on `values` against `limit`, told in the words of whoever asked."""
    log_gain = best(log_wealth(values, limit))
    return Evidence(
        mean=mean,
        limit=shown_limit,
        p_value=math.exp(-log_gain),
        exceeded=log_gain >= -math.log(alpha),
        num_samples=len(values),
    )


def mean_of(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def exceeds(
    values: np.ndarray,  # [N], not negative
    limit: float,
    *,
    alpha: float,
) -> Evidence:
    """Whether the mean is above `limit` (at least 0). A quantile's limit is a mean's too: p95 <= L says that at most
    0.05 of the requests take longer, so ask about `values > L` and 0.05. "At least" asks about 1 - values."""
    return evidence(values, limit, alpha=alpha, mean=mean_of(values), shown_limit=limit)


def pairs(
    candidate: np.ndarray,  # [C]
    predecessor: np.ndarray,  # [R]
    share: float,
) -> tuple[np.ndarray, np.ndarray]:  # [P], [P]
    """The t-th value of the smaller arm beside the mean of the t-th k of the larger one, k the ratio of their planned
    weights, rounded. `share` is the candidate's weight of the two arms' together.

    Neither k nor any pair depends on values, on how many have come, or on which arm was faster, and later data only add
    pairs: therefore looking often is allowed. The wait for the slower arm leaves a few users out until it catches up, a
    ratio that is not whole leaves out more, at worst (3 to 2) as if a sixth of the users were missing.
    Partners enter at about the same time, so that what moves both arms alike, a busy hour, cancels.
    """
    assert 0 < share < 1
    ratio = (1 - share) / share
    size_candidate, size_predecessor = max(1, round(1 / ratio)), max(1, round(ratio))
    num = min(len(candidate) // size_candidate, len(predecessor) // size_predecessor)
    return (
        candidate[: num * size_candidate].reshape(num, size_candidate).mean(axis=1),
        predecessor[: num * size_predecessor].reshape(num, size_predecessor).mean(axis=1),
    )


def in_unit_interval(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def lower_bound(rejects: Callable[[float], bool]) -> float:
    """The greatest difference in [-1, 1] that is rejected as too low, from below."""
    low, high = -1.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if rejects(middle) else (low, middle)
    return low


def compare(
    candidate: np.ndarray,  # [C], in [0, 1]
    predecessor: np.ndarray,  # [R], in [0, 1]
    *,
    share: float,
    alpha: float,
) -> Comparison:
    """Whether the arms' means differ, and by how much: betting on paired differences (Shekhar and Ramdas 2023), half
    of alpha for either direction. `share` as in `pairs`.

    The interval is a confidence sequence: all differences not rejected so far, so it only ever shrinks. `low > high` is
    possible, with probability at most alpha unless the difference itself changed. The direction rejected first stays.
    """
    assert in_unit_interval(candidate)
    assert in_unit_interval(predecessor)
    ours, theirs = pairs(candidate, predecessor, share)
    # A difference in [-1, 1], moved to [0, 2]: "at most m" is the claim "the mean of 1 + difference is at most 1 + m".
    up, down = 1 + ours - theirs, 1 + theirs - ours
    bar = math.log(2 / alpha)
    rises, falls = log_wealth(up, 1.0), log_wealth(down, 1.0)
    above, below = int(np.searchsorted(rises, bar)), int(np.searchsorted(falls, bar))
    return Comparison(
        difference=float(up.mean() - 1) if len(up) else None,
        low=lower_bound(lambda m: best(log_wealth(up, 1 + m)) >= bar),
        high=-lower_bound(lambda m: best(log_wealth(down, 1 + m)) >= bar),
        p_value=min(1.0, 2 * math.exp(-max(best(rises), best(falls)))),
        decided=(above < below) - (below < above),
        num_candidate=len(candidate),
        num_predecessor=len(predecessor),
    )


def worse(
    candidate: np.ndarray,  # [C], not negative
    predecessor: np.ndarray,  # [R], in [0, 1]
    *,
    share: float,
    alpha: float,
    ratio: float = 1.0,
    by: float = 0.0,
) -> Evidence:
    """Whether the candidate's mean is above `ratio` times the predecessor's plus `by`. Where higher is better, `by`
    asks about 1 - values of both arms."""
    assert in_unit_interval(predecessor)
    ours, theirs = pairs(candidate, predecessor, share)
    baseline = mean_of(predecessor)
    # Moved by `ratio`, the least that `ours - ratio * theirs` can be, so that it is not negative.
    return evidence(
        ours - ratio * theirs + ratio,
        ratio + by,
        alpha=alpha,
        mean=mean_of(candidate),
        shown_limit=None if baseline is None else ratio * baseline + by,
    )


def quantile_bound(
    values: np.ndarray,  # [N]
    quantile: float,
    *,
    alpha: float,
) -> float | None:
    """A value that the quantile is not above, at all looks together with probability 1 - alpha; it never rises. None
    while there are too few to say (of p95 about 150, of p99 about 800)."""
    candidates = np.unique(values)
    first, last = 0, len(candidates)
    while first < last:
        middle = (first + last) // 2
        within = (values <= candidates[middle]).astype(float)
        if best(log_wealth(within, quantile)) >= -math.log(alpha):
            last = middle
        else:
            first = middle + 1
    return float(candidates[first]) if first < len(candidates) else None


def quantile_worse(
    candidate: np.ndarray,  # [C]
    predecessor: np.ndarray,  # [R]
    quantile: float,
    *,
    alpha: float,
    ratio: float = 1.0,
    by: float = 0.0,
) -> Evidence:
    """Whether the candidate's quantile is above `ratio` times the predecessor's plus `by`: whether more than
    1 - quantile of its requests are above that, the predecessor's quantile taken at its upper bound.

    Half of alpha is for the bound. A bound only falls, so requests counted as above stay above, and a rejection stays.
    """
    bound = quantile_bound(predecessor, quantile, alpha=alpha / 2)
    # Without a bound nothing is above it.
    beyond = (candidate > (math.inf if bound is None else ratio * bound + by)).astype(float)
    known = None if bound is None else 1 - quantile
    return evidence(beyond, 1 - quantile, alpha=alpha / 2, mean=mean_of(beyond), shown_limit=known)
