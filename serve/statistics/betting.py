"""Tests by betting against a claim about a mean, valid for any number of looks.

A bettor who pays 1 for `x / limit` against the claim "the mean of these non-negative values is at most `limit`" gains
nothing on average if the claim is true, whatever share (stake) of the money is at risk. So the wealth, which starts at
1, ever reaches 1/alpha with probability at most alpha (Ville 1939), and a claim against which that much was won is
rejected (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting").

Guarantee, at every sample size and for all looks together, without normality or equal variances: a true claim is
rejected with probability at most alpha. Assumption: the mean of each value, given all earlier ones, satisfies the
claim, and its limit was known before the value.

Values are in order of entry, and new values are only appended. So earlier bets never change, and the highest wealth so
far decides: a rejected claim stays rejected. A test therefore continues from eight sums (`Bets`), and values may be
added one by one or all at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

STAKES = 0.9 * 0.5 ** np.arange(8)
"""Stakes of eight bettors, who start with an eighth of the money each. The best stake is about effect/variance (Kelly
1956), which is unknown beforehand: the bettor nearest to it soon owns most of the money, and the mixture costs at most
ln 8 in log wealth. Users needed: `benchmarks/ab_tests.py`."""
BLOCK = 4096
"""Number of values whose bets are computed at once, which bounds the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Result of a bet against the claim that a mean is at most its limit.

    `mean`, `limit` and `num_samples` are those at the rejection of the claim, or the latest if it was not rejected.
    """

    mean: float | None
    """Mean of the samples; None without any."""
    limit: float | None
    """Limit of the claim; None if it depends on the predecessor's samples and there are none."""
    p_value: float
    """p-value of the claim: 1/wealth, valid for all looks together."""
    exceeded: bool
    num_samples: int
    """Number of users or requests, including the predecessor's if the limit depends on them."""


def wealth_after(
    values: np.ndarray,  # [N], not negative, in order of entry
    limit: float | np.ndarray,  # [] or [N], not negative, each known before its value
    before: np.ndarray,  # [8], logarithm of each bettor's money, in shares of what it started with
) -> tuple[np.ndarray, np.ndarray]:  # [8, N], [N]
    """Return the logarithms of each bettor's money and of the total after each value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        payoffs = values / limit
    # At a limit of 0 a single value above 0 disproves the claim.
    payoffs = np.where(np.asarray(limit) > 0, payoffs, np.where(values > 0, np.inf, 1.0))
    bettors = before[:, None] + np.log1p(STAKES[:, None] * (payoffs - 1)).cumsum(axis=1)
    return bettors, np.logaddexp.reduce(bettors, axis=0) - math.log(len(STAKES))


def log_wealth(
    values: np.ndarray,  # [N], not negative, in order of entry
    limit: float | np.ndarray,  # [] or [N], not negative, each known before its value
) -> np.ndarray:  # [N]
    """Return the highest log wealth so far from betting against "the mean is at most `limit`"; at least 0.

    It decreases in the limit, as every single bet does: values that reject a limit reject all lower ones.
    """
    _, wealth = wealth_after(values, limit, np.zeros(len(STAKES)))
    return np.maximum.accumulate(np.maximum(wealth, 0.0))


def first_rejection(log_wealths: np.ndarray, alpha: float) -> int | None:
    """Return the number of samples at which the claim was rejected; None if it was not."""
    place = int(np.searchsorted(log_wealths, -math.log(alpha)))
    return place + 1 if place < len(log_wealths) else None


@dataclass(slots=True)
class Bets:
    """State of the bets against one claim."""

    alpha: float
    """Probability of rejecting a true claim."""
    bettors: np.ndarray = field(default_factory=lambda: np.zeros(len(STAKES)))
    """[8], logarithm of each bettor's money."""
    best: float = 0.0
    """Highest logarithm so far of the total money."""
    num_values: int = 0
    rejected: int | None = None
    """Number of values at which the claim was rejected; None if it was not."""

    def add(self, values: np.ndarray, limit: float | np.ndarray) -> int:  # [N], [] or [N]
        """Bet on further values; return how many of them were used before the claim was rejected, or all."""
        before = self.num_values
        limits = np.broadcast_to(limit, values.shape)
        for start in range(0, len(values), BLOCK):
            block = slice(start, start + BLOCK)
            bettors, wealth = wealth_after(values[block], limits[block], self.bettors)
            path = np.maximum.accumulate(np.maximum(wealth, self.best))
            place = first_rejection(path, self.alpha)
            if self.rejected is None and place is not None:
                self.rejected = self.num_values + place
            self.bettors, self.best = bettors[:, -1].copy(), float(path[-1])
            self.num_values += len(path)
        end = self.num_values if self.rejected is None else self.rejected
        return max(0, end - before)

    @property
    def p_value(self) -> float:
        return math.exp(-self.best)


@dataclass(slots=True)
class ExceedanceTest:
    """Test whether a mean is above `limit` (at least 0).

    A limit of a quantile is also a limit of a mean: p95 <= L states that at most 0.05 of the requests take longer, so
    test `values > L` against 0.05. For "at least", test 1 - values.
    """

    limit: float
    bets: Bets
    total: float = 0.0
    """Sum of the values until the rejection."""

    def add(self, values: np.ndarray) -> None:  # [N], not negative
        self.total += float(values[: self.bets.add(values, self.limit)].sum())

    def evidence(self) -> Evidence:
        bets = self.bets
        count = bets.num_values if bets.rejected is None else bets.rejected
        return Evidence(
            mean=self.total / count if count else None,
            limit=self.limit,
            p_value=bets.p_value,
            exceeded=bets.rejected is not None,
            num_samples=count,
        )


def exceeds(
    values: np.ndarray,  # [N], not negative
    limit: float,
    *,
    alpha: float,
) -> Evidence:
    """Test as `ExceedanceTest` does, all values at once."""
    test = ExceedanceTest(limit, Bets(alpha))
    test.add(values)
    return test.evidence()


def share_of_alpha(alpha: float, period: int) -> float:
    """Return the part of `alpha` for the test of one period, counted from 0; all periods together use at most `alpha`.

    Returning users count again in a later period, so periods are not independent and each has a separate test: 1/2,
    1/6, 1/12, ... of alpha, which sum to 1.
    """
    return alpha / ((period + 1) * (period + 2))


def over_periods(tests: Sequence[Evidence]) -> Evidence:
    """Combine tests of consecutive periods, each with its `share_of_alpha`: the first rejection, else the last test."""
    found = next((test for test in tests if test.exceeded), tests[-1])
    p_value = min(test.p_value * (number + 1) * (number + 2) for number, test in enumerate(tests))
    return replace(found, p_value=min(1.0, p_value))
