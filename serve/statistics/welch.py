"""The test that is looked at once: Welch's within blocks of time, and how many users it needs."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
from scipy import stats

from rlhf.types import InputError
from serve.statistics.sequential import Comparison, Trial

USERS_PER_BLOCK = 20
"""Users of the smaller arm in a block of time: enough for a variance, few enough that values are alike within one."""
COCHRAN = 25.0
"""Users of the smaller arm for each unit of squared skewness from which a mean is near enough to normal (Cochran 1977,
section 2.15)."""


def sizes(users_per_arm: int, share: float) -> tuple[int, int]:
    """Users of candidate and predecessor when the smaller of the two has `users_per_arm`; `share` is the candidate's
    weight of both together."""
    ratio = (1 - share) / share
    return math.ceil(users_per_arm * max(1.0, 1 / ratio)), math.ceil(users_per_arm * max(1.0, ratio))


def least_users(values: np.ndarray) -> int:  # [N], of both arms together
    """Users that the smaller arm needs for a t-test of such values: about 20 / p where a small share p has 1."""
    skewness = float(stats.skew(values)) if len(values) and np.ptp(values) > 0 else 0.0
    return math.ceil(COCHRAN * skewness**2)


def until_planned(trial: Trial, *, users_per_arm: int, share: float) -> Trial | None:
    """The users who came until both arms had as many as planned; None until they have."""
    counts = np.minimum(
        trial.candidate.cumsum() / sizes(users_per_arm, share)[0],
        (~trial.candidate).cumsum() / sizes(users_per_arm, share)[1],
    )
    # Of both arms up to one moment: the first n of each would be users of different times.
    end = int(np.searchsorted(counts, 1.0))
    return trial.only(slice(end + 1)) if end < len(trial) else None


def stratified_welch(trial: Trial, *, alpha_higher: float, alpha_lower: float) -> Comparison:
    """Welch's t-test (1947) within blocks of consecutive users, whose differences are averaged by the blocks' sizes.

    `alpha_higher` is the probability of calling the candidate's mean higher where it is not, `alpha_lower` lower. What
    moves both arms alike, a busy hour or a trend, is in all users of a block. Guaranteed, as the t-test is, for
    many users or normal values: see `least_users`. `trial` has at least two users of either arm.
    """
    blocks = blocks_of(trial)
    weights = np.array([len(block) for block in blocks]) / len(trial)
    differences, own, common, freedoms = (np.array(each) for each in zip(*map(moments, blocks), strict=True))
    # An arm whose few users all say the same varies more than it shows: never less than with the arms' common variance.
    difference, variance = float(weights @ differences), max(float(weights**2 @ own), float(weights**2 @ common))
    if variance == 0:
        low, high, p_value = difference, difference, float(difference == 0)
    else:
        # Welch-Satterthwaite.
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
    """Consecutive users in blocks of one size, as many as leave two users of either arm in each."""
    number = max(1, int(min(trial.candidate.sum(), (~trial.candidate).sum())) // USERS_PER_BLOCK)
    while True:
        edges = np.linspace(0, len(trial), number + 1).astype(int)
        blocks = [trial.only(slice(*ends)) for ends in pairwise(edges)]
        if number == 1 or all(2 <= block.candidate.sum() <= len(block) - 2 for block in blocks):
            return blocks
        number -= 1


def moments(block: Trial) -> tuple[float, float, float, float]:
    """Difference of the arms' means, its variance by each arm's own and by their common one, and degrees of freedom."""
    arms = block.arms
    own = [arm.var(ddof=1) / len(arm) for arm in arms]
    common = sum(arm.var() * len(arm) for arm in arms) / (len(block) - 2)
    shares = [part**2 / (len(arm) - 1) for part, arm in zip(own, arms, strict=True)]
    freedom = sum(own) ** 2 / sum(shares) if sum(shares) else 1.0
    difference = float(arms[0].mean() - arms[1].mean())
    return difference, float(sum(own)), float(common * sum(1 / len(arm) for arm in arms)), freedom


def check(**numbers: float) -> None:
    """Errors: InputError. An effect and a deviation are above 0, a probability between 0 and 1."""
    for name, number in numbers.items():
        top = math.inf if name in ("sd", "effect") else 1.0
        if not 0 < number < top:
            raise InputError(f"{name}={number}: give a number above 0" + (" and below 1" if top == 1 else ""))


def users_per_arm(*, sd: float, effect: float, alpha: float = 0.05, power: float = 0.8, share: float = 0.5) -> int:
    """Users that the smaller arm needs for a true difference `effect` of means to be seen with probability `power`.

    `sd` is the standard deviation of users' values: sqrt(p * (1 - p)) where a share p of them has 1 and the others 0.
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
    """Probability that the test sees a true difference `effect`."""
    # Imports pandas: most of a second, which only the planning of a test should cost.
    from statsmodels.stats.power import TTestIndPower

    check(sd=sd, effect=effect, alpha=alpha, share=share)
    ratio = max(share, 1 - share) / min(share, 1 - share)
    return float(TTestIndPower().power(effect / sd, users_per_arm, alpha, ratio=ratio, alternative="larger"))
