"""Welch's test within blocks of time at a planned size, and the plan."""

import math

import numpy as np
import pytest
from scipy import stats

from rlhf.types import InputError
from serve.statistics.sequential import Trial
from serve.statistics.welch import (
    blocks_of,
    least_users,
    power_of,
    sizes,
    stratified_welch,
    until_planned,
    users_per_arm,
)


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def trial(ours, theirs, seed=2):
    """Both arms, their users in random order."""
    candidate = np.repeat([True, False], [len(ours), len(theirs)])
    order = generator(seed).permutation(len(candidate))
    values = np.concatenate([ours, theirs])
    return Trial(candidate=candidate[order], probability=np.full(len(order), 0.5), values=values[order])


ALPHAS = {"alpha_higher": 0.025, "alpha_lower": 0.025}


def test_one_block_is_welchs_test():
    # Fewer than two blocks' users in the smaller arm.
    ours, theirs = generator().random(30), generator(1).random(120)
    found = stratified_welch(trial(ours, theirs), **ALPHAS)
    common = (29 * ours.var(ddof=1) + 119 * theirs.var(ddof=1)) / 148
    own = ours.var(ddof=1) / 30, theirs.var(ddof=1) / 120
    variance = max(sum(own), common * (1 / 30 + 1 / 120))
    t = (ours.mean() - theirs.mean()) / math.sqrt(variance)
    freedom = sum(own) ** 2 / (own[0] ** 2 / 29 + own[1] ** 2 / 119)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((found.difference - half, found.difference + half))
    assert (found.num_candidate, found.num_predecessor) == (30, 120)


def test_a_block_counts_by_its_users():
    # Two blocks of 40 users: differences 1 and 0, each with a spread.
    values = np.tile([0.4, 0.6], 40)
    candidate = np.tile([True, True, False, False], 20)
    values[:40] = np.where(candidate[:40], 0.9, 0.1) + np.tile([-0.1, 0.1], 20)
    found = stratified_welch(Trial(candidate=candidate, probability=np.full(80, 0.5), values=values), **ALPHAS)
    assert len(blocks_of(Trial(candidate=candidate, probability=np.full(80, 0.5), values=values))) == 2
    assert found.difference == pytest.approx(0.4)


def test_there_is_one_look_at_a_common_time():
    random = generator()
    candidate = random.random(1000) < 0.25
    users = Trial(candidate=candidate, probability=np.full(1000, 0.25), values=random.random(1000))
    planned = until_planned(users, users_per_arm=100, share=0.25)
    assert planned.candidate.sum() >= 100
    assert (~planned.candidate).sum() >= 300
    assert until_planned(users.only(slice(len(planned))), users_per_arm=100, share=0.25) is not None
    assert until_planned(users.only(slice(len(planned) - 1)), users_per_arm=100, share=0.25) is None


def test_a_trend_is_no_effect_and_hides_none():
    decided = {0.0: 0, 0.2: 0}
    for effect in decided:
        for seed in range(100):
            random = generator(seed)
            candidate = random.random(1200) < 0.4
            values = (random.random(1200) < np.linspace(0.1, 0.7, 1200) + effect * candidate).astype(float)
            users = Trial(candidate=candidate, probability=np.full(1200, 0.4), values=values)
            found = stratified_welch(until_planned(users, users_per_arm=400, share=0.4), **ALPHAS)
            decided[effect] += found.decided
    assert stats.binom.sf(abs(decided[0.0]) - 1, 100, 0.05) > 1e-4
    assert decided[0.2] > 95


def test_a_rare_value_needs_more_users_than_one_hundred():
    # At 1 %, 37 of 100 arms of 100 users have no such value at all, hence no variance: equal arms looked worse.
    assert least_users((generator().random(10_000) < 0.01).astype(float)) == pytest.approx(25 / 0.01, rel=0.15)
    assert least_users((generator().random(10_000) < 0.5).astype(float)) <= 1
    assert least_users(np.zeros(5)) == 0
    ours, theirs = np.zeros(100), np.concatenate([np.ones(99), np.zeros(9801)])
    assert stratified_welch(trial(ours, theirs), **ALPHAS).decided == 0


@pytest.mark.parametrize(
    ("ours", "theirs", "decided", "p_value"), [(1.0, 0.0, 1, 0.001), (0.0, 1.0, -1, 0.001), (0.5, 0.5, 0, 1.0)]
)
def test_arms_without_spread(ours, theirs, decided, p_value):
    found = stratified_welch(trial(np.full(9, ours), np.full(9, theirs)), **ALPHAS)
    assert (found.decided, found.difference) == (decided, ours - theirs)
    assert found.p_value == pytest.approx(p_value, abs=1e-3)


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
    expected = (stats.norm.ppf(0.95) + stats.norm.ppf(0.8)) ** 2 * 0.46**2 / 0.05**2 * (1 + ratio)
    assert num == pytest.approx(expected, abs=4)


def test_power_is_what_was_calculated():
    num, random = users_per_arm(sd=0.5, effect=0.25), generator()
    found = [
        stratified_welch(
            trial((random.random(num) < 0.625).astype(float), (random.random(num) < 0.375).astype(float), seed),
            alpha_higher=0.05,
            alpha_lower=0.05,
        ).decided
        for seed in range(500)
    ]
    assert np.mean(np.array(found) == 1) == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize("wrong", [{"effect": 0.0}, {"sd": -1.0}, {"alpha": 1.0}, {"power": math.nan}, {"share": 0.0}])
def test_a_plan_of_nonsense_is_refused(wrong):
    name = next(iter(wrong))
    with pytest.raises(InputError, match=f"{name}="):
        users_per_arm(**({"sd": 0.5, "effect": 0.1} | wrong))
