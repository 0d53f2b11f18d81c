"""Fixed-horizon test: Welch's test within blocks of time, and the number of users that it needs."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
from scipy import stats

from rlhf.types import InputError
from serve.statistics.sequential import Comparison, Trial

USERS_PER_BLOCK = 20
"""Users of the smaller arm in a block of time: enough for a variance, few enough for homogeneous values in a block."""
COCHRAN = 25.0
"""Users of the smaller arm per unit of squared skewness at which a mean is close enough to normal (Cochran 1977,
section 2.15)."""


def sizes(users_per_arm: int, share: float) -> tuple[int, int]:
    """Return the numbers of users of candidate and predecessor when the smaller arm has `users_per_arm`; `share` is the
    candidate's share of their total weight."""
    ratio = (1 - share) / share
    return math.ceil(users_per_arm * max(1.0, 1 / ratio)), math.ceil(users_per_arm * max(1.0, ratio))


def least_users(values: np.ndarray) -> int:  # [N], of both arms together
    """Return the users that the smaller arm needs for a t-test of such values: about 20 / p if a small share p is 1."""
    skewness = float(stats.skew(values)) if len(values) and np.ptp(values) > 0 else 0.0
    return math.ceil(COCHRAN * skewness**2)


def until_planned(trial: Trial, *, users_per_arm: int, share: float) -> Trial | None:
    """Return the users up to the time at which both arms have the planned number; None before."""
    counts = np.minimum(
        trial.candidate.cumsum() / sizes(users_per_arm, share)[0],
        (~trial.candidate).cumsum() / sizes(users_per_arm, share)[1],
    )
    # Both arms end at the same time: the first n users of each arm would come from different times.
    end = int(np.searchsorted(counts, 1.0))
    return trial.only(slice(end + 1)) if end < len(trial) else None


def stratified_welch(trial: Trial, *, alpha_higher: float, alpha_lower: float) -> Comparison:
    """Welch's t-test (1947) within blocks of consecutive users, whose differences are averaged by the blocks' sizes.

    `alpha_higher` is the probability of falsely calling the candidate's mean higher, `alpha_lower` of falsely calling
    it lower. Effects on both arms, such as a busy hour or a trend, affect all users of a block alike. The guarantee is
    that of the t-test, for many users or normal values: see `least_users`. `trial` has at least two users of each arm.
    """
    blocks = blocks_of(trial)
    weights = np.array([len(block) for block in blocks]) / len(trial)
    differences, own, common, freedoms = (np.array(each) for each in zip(*map(moments, blocks), strict=True))
    # The variance of an arm whose few users agree is underestimated, so it is at least that from the common variance.
    difference, variance = float(weights @ differences), max(float(weights**2 @ own), float(weights**2 @ common))
    if variance == 0:
        low, high, p_value = difference, difference, float(difference == 0)
    else:
        # Degrees of freedom by Welch-Satterthwaite.
        freedom = float(weights**2 @ own) ** 2 / float(weights**4 @ (own**2 / freedoms)) if own.any() else 1.0
        deviation = math.sqrt(variance)
        low = difference - float(stats.t.isf(alpha_higher, freedom)) * deviation
        high = difference + float(stats.t.isf(alpha_lower, freedom)) * deviation
        p_value = float(2 * stats.t.sf(abs(difference) / deviation, freedom))
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        decided=int(low > 0) - int(high < 0),
        num_candidate=int(trial.candidate.sum()),
        num_predecessor=int((~trial.candidate).sum()),
    )


def blocks_of(trial: Trial) -> list[Trial]:
    """Split the users into consecutive blocks of equal size, as many as leave two users of each arm in every block."""
    number = max(1, int(min(trial.candidate.sum(), (~trial.candidate).sum())) // USERS_PER_BLOCK)
    while True:
        edges = np.linspace(0, len(trial), number + 1).astype(int)
        blocks = [trial.only(slice(*ends)) for ends in pairwise(edges)]
        if number == 1 or all(2 <= block.candidate.sum() <= len(block) - 2 for block in blocks):
            return blocks
        number -= 1


def moments(block: Trial) -> tuple[float, float, float, float]:
    """Return the difference of the arms' means, its variance from the arms' own and from their common variance, and the
    degrees of freedom."""
    arms = block.arms
    own = [arm.var(ddof=1) / len(arm) for arm in arms]
    common = sum(arm.var() * len(arm) for arm in arms) / (len(block) - 2)
    shares = [part**2 / (len(arm) - 1) for part, arm in zip(own, arms, strict=True)]
    freedom = sum(own) ** 2 / sum(shares) if sum(shares) else 1.0
    difference = float(arms[0].mean() - arms[1].mean())
    return difference, float(sum(own)), float(common * sum(1 / len(arm) for arm in arms)), freedom


def check(**numbers: float) -> None:
    """Raise InputError unless an effect and a deviation are above 0, and a probability is between 0 and 1."""
    for name, number in numbers.items():
        top = math.inf if name in ("sd", "effect") else 1.0
        if not 0 < number < top:
            raise InputError(f"{name}={number}: give a number above 0" + (" and below 1" if top == 1 else ""))


def users_per_arm(*, sd: float, effect: float, alpha: float = 0.05, power: float = 0.8, share: float = 0.5) -> int:
    """Return the users that the smaller arm needs to detect a true difference `effect` of means with probability
    `power`.

    `sd` is the standard deviation of users' values: sqrt(p * (1 - p)) if a share p of them is 1 and the others are 0.
    """
    check(sd=sd, effect=effect, alpha=alpha, power=power, share=share)
    low, high = 2, 4
    reached = partial(power_of, sd=sd, effect=effect, alpha=alpha, share=share)
    while reached(high) < power:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) >= power else (middle + 1, high)
    return high


def power_of(users_per_arm: int, *, sd: float, effect: float, alpha: float = 0.05, share: float = 0.5) -> float:
    """Return the probability that the test detects a true difference `effect`."""
    # Imported here: it imports pandas, which takes most of a second, and only the planning of a test needs it.
    from statsmodels.stats.power import TTestIndPower

    check(sd=sd, effect=effect, alpha=alpha, share=share)
    ratio = max(share, 1 - share) / min(share, 1 - share)
    return float(TTestIndPower().power(effect / sd, users_per_arm, alpha, ratio=ratio, alternative="larger"))
