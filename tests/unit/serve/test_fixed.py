"""Welch's test at a planned size, and the plan."""

import math

import numpy as np
import pytest
from scipy import stats

from rlhf.types import InputError
from serve.fixed import power_of, sizes, users_per_arm, welch


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def test_welch_by_its_formula():
    ours, theirs = generator().random(40), generator(1).random(120) ** 2
    found = welch(ours, theirs, users_per_arm=40, share=0.25, alpha=0.05)
    variances = ours.var(ddof=1) / 40, theirs.var(ddof=1) / 120
    t = (ours.mean() - theirs.mean()) / math.sqrt(sum(variances))
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 39 + variances[1] ** 2 / 119)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(variances))
    assert (found.low, found.high) == pytest.approx((found.difference - half, found.difference + half))
    assert (found.num_candidate, found.num_predecessor) == (40, 120)


def test_there_is_one_look():
    ours, theirs = generator().random(500), generator(1).random(500)
    assert welch(ours[:99], theirs, users_per_arm=100, share=0.5, alpha=0.05) is None
    assert welch(ours, theirs[:99], users_per_arm=100, share=0.5, alpha=0.05) is None
    first = welch(ours[:100], theirs[:100], users_per_arm=100, share=0.5, alpha=0.05)
    assert welch(ours, theirs, users_per_arm=100, share=0.5, alpha=0.05) == first


@pytest.mark.parametrize(
    ("ours", "theirs", "decided", "p_value"), [(1.0, 0.0, 1, 0.0), (0.0, 1.0, -1, 0.0), (0.5, 0.5, 0, 1.0)]
)
def test_values_without_spread(ours, theirs, decided, p_value):
    found = welch(np.full(9, ours), np.full(9, theirs), users_per_arm=9, share=0.5, alpha=0.05)
    assert (found.decided, found.p_value, found.low, found.high) == (decided, p_value, ours - theirs, ours - theirs)


def test_sizes_keep_the_weights():
    assert sizes(100, 0.5) == (100, 100)
    assert sizes(100, 0.25) == (100, 300)
    assert sizes(100, 0.75) == (300, 100)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.75])
def test_the_plan_is_the_least_that_reaches_its_power(share):
    num = users_per_arm(sd=0.46, effect=0.05, share=share)
    assert power_of(num, sd=0.46, effect=0.05, share=share) >= 0.8
    assert power_of(num - 1, sd=0.46, effect=0.05, share=share) < 0.8
    # Normal approximation: (z + z)^2 * variance / effect^2, smaller arm's share of it.
    ratio = min(share, 1 - share) / max(share, 1 - share)
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * 0.46**2 / 0.05**2 * (1 + ratio)
    assert num == pytest.approx(expected, abs=4)


def test_power_is_what_was_calculated():
    num, random = users_per_arm(sd=0.5, effect=0.25), generator()
    found = [
        welch(
            (random.random(num) < 0.625).astype(float),
            (random.random(num) < 0.375).astype(float),
            users_per_arm=num,
            share=0.5,
            alpha=0.05,
        ).decided
        for _ in range(500)
    ]
    assert np.mean(np.array(found) == 1) == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize("wrong", [{"effect": 0.0}, {"sd": -1.0}, {"alpha": 1.0}, {"power": math.nan}, {"share": 0.0}])
def test_a_plan_of_nonsense_is_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(InputError, match=f"{name}="):
        users_per_arm(**({"sd": 0.5, "effect": 0.1} | wrong))
