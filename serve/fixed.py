"""The test that is looked at once: Welch's, and how many users it needs."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from scipy import stats

from rlhf.types import InputError
from serve.sequential import Comparison


def sizes(users_per_arm: int, share: float) -> tuple[int, int]:
    """Users of candidate and predecessor when the smaller of the two has `users_per_arm`; `share` is the candidate's
    weight of both together."""
    ratio = (1 - share) / share
    return math.ceil(users_per_arm * max(1.0, 1 / ratio)), math.ceil(users_per_arm * max(1.0, ratio))


def welch(
    candidate: np.ndarray,  # [C], in order of entry
    predecessor: np.ndarray,  # [R], in order of entry
    *,
    users_per_arm: int,
    share: float,
    alpha: float,
) -> Comparison | None:
    """Welch's t-test (1947) of the users who came first, as many as were planned; None until they are there.

    Later users change nothing, so it is one look whenever it is asked for. Guaranteed, as the t-test is, for many
    users or normal values: means of few, very lopsided values are not.
    """
    num_candidate, num_predecessor = sizes(users_per_arm, share)
    if len(candidate) < num_candidate or len(predecessor) < num_predecessor:
        return None
    ours, theirs = candidate[:num_candidate], predecessor[:num_predecessor]
    difference = float(ours.mean() - theirs.mean())
    if ours.var() + theirs.var() == 0:
        # No spread at all, where the t-test divides by zero.
        low, high, p_value = difference, difference, float(difference == 0)
    else:
        result = stats.ttest_ind(ours, theirs, equal_var=False)
        low, high = (float(bound) for bound in result.confidence_interval(1 - alpha))
        p_value = float(result.pvalue)
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        decided=int(np.sign(difference)) if p_value <= alpha else 0,
        num_candidate=num_candidate,
        num_predecessor=num_predecessor,
    )


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
    """Probability that `welch` sees a true difference `effect`."""
    # Imports pandas: most of a second that only whoever plans a test should wait for.
    from statsmodels.stats.power import TTestIndPower

    check(sd=sd, effect=effect, alpha=alpha, share=share)
    ratio = max(share, 1 - share) / min(share, 1 - share)
    return float(TTestIndPower().power(effect / sd, users_per_arm, alpha, ratio=ratio))
