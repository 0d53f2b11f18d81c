"""Candidate against predecessor under traffic that changes: closed forms and small simulations with fixed seeds."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from serve.statistics.betting import log_wealth
from serve.statistics.responders import earlier_share, responders
from serve.statistics.sequential import Trial, compare, effects, predictions, worse, worse_paired
from tests.unit.serve.samples import false_alarms_are_at_most, generator

ALPHA = 0.05
ALPHAS = {"alpha_higher": ALPHA / 2, "alpha_lower": ALPHA / 2}
TIME = np.linspace(0, 1, 1000)
MEANS = {
    "flat": np.full(1000, 0.3),
    "0 before noon and 1 after": (TIME >= 0.5).astype(float),
    "trend": 0.3 + 0.4 * TIME,
    "days": 0.4 + 0.3 * np.sin(2 * np.pi * 14 * TIME),
    "outage": np.where((TIME > 0.4) & (TIME < 0.5), 0.02, 0.6),
}


def simulate(means, share=0.5, effect=0.0, seed=0, answering=(1.0, 1.0)):
    """Users with a value of 0 or 1; NaN where they do not answer."""
    random, num = generator(seed), len(means)
    candidate = random.random(num) < share
    values = (random.random(num) < means + effect * candidate).astype(float)
    values[random.random(num) >= np.where(candidate, *answering)] = np.nan
    return Trial(candidate=candidate, probability=np.broadcast_to(np.asarray(share, float), num), values=values)


@pytest.mark.parametrize("ratio", [1.0, 1.5])
def test_an_estimate_is_right_for_each_user_on_average_over_the_arms(ratio):
    random = generator()
    earlier, share = random.random(20), 0.2
    with_candidate, with_predecessor = 0.9, 0.3
    means = []
    for arm in (True, False):
        values = np.append(earlier, with_candidate if arm else with_predecessor)
        trial = Trial(
            candidate=np.append(random.random(20) < share, arm), probability=np.full(21, share), values=values
        )
        estimates, least = effects(trial, ratio=ratio)
        assert (estimates >= least - 1e-12).all()
        means.append(estimates[-1])
    assert share * means[0] + (1 - share) * means[1] == pytest.approx(with_candidate - ratio * with_predecessor)


def test_a_prediction_knows_earlier_users_alone():
    values = generator().random(300)
    whole = predictions(values)
    assert whole[0] == 0.5
    assert whole[1] == pytest.approx((0.5 * (1 - 1 / 200) + values[0]) / (2 - 1 / 200))
    assert (predictions(values[:100]) == whole[:100]).all()
    assert predictions(1 - values) == pytest.approx(1 - whole)
    assert len(predictions(np.array([]))) == 0


@pytest.mark.parametrize("share", [0.05, 0.4])
@pytest.mark.parametrize("name", MEANS)
def test_equal_arms_are_seldom_told_apart_however_values_change_over_time(name, share):
    looks = [compare(simulate(MEANS[name], share, seed=seed), **ALPHAS) for seed in range(25)]
    assert false_alarms_are_at_most(ALPHA, sum(look.decided != 0 for look in looks), len(looks))
    assert false_alarms_are_at_most(ALPHA, sum(not look.low <= 0 <= look.high for look in looks), len(looks))


def test_the_share_may_change_from_user_to_user():
    # More users see the candidate the better the times: its users' plain mean is higher by 0.2.
    shares = 0.1 + 0.8 * TIME
    trials = [simulate(MEANS["trend"], shares, seed=seed) for seed in range(30)]
    plain = [arms[0].mean() - arms[1].mean() for arms in (trial.arms for trial in trials)]
    assert np.mean(plain) > 0.1
    assert false_alarms_are_at_most(ALPHA, sum(compare(trial, **ALPHAS).decided != 0 for trial in trials), 30)


@pytest.mark.parametrize("name", MEANS)
def test_responders_are_seldom_told_apart_where_arms_answer_unlike(name):
    found = [responders(simulate(MEANS[name], seed=seed, answering=(0.6, 0.3)), **ALPHAS) for seed in range(20)]
    assert false_alarms_are_at_most(ALPHA, sum(each.values.decided != 0 for each in found), 20)
    assert all(each.rates.decided == 1 for each in found)
    assert np.mean([each.rates.difference for each in found]) == pytest.approx(0.3, abs=0.02)


def test_the_share_of_responders_starts_as_planned_and_follows():
    trial = simulate(np.full(2000, 0.5), 0.25)
    share = earlier_share(trial)
    assert share[0] == 0.25
    assert share[1] == pytest.approx((20 * 0.25 * (1 - 1 / 100) + trial.candidate[0]) / (20 * (1 - 1 / 100) + 1))
    assert share[-1] == pytest.approx(trial.candidate[-300:].mean(), abs=0.1)


def test_a_difference_is_found_and_covered():
    found = [compare(simulate(np.full(2000, 0.3), effect=0.15, seed=seed), **ALPHAS) for seed in range(40)]
    assert all(each.decided == 1 for each in found)
    assert sum(each.low <= 0.15 <= each.high for each in found) >= 36


def test_what_was_decided_at_a_look_stays_decided_and_intervals_only_shrink():
    # A candidate that starts better and then becomes worse: the first finding stands, but no longer fits.
    random = generator()
    candidate = random.random(4000) < 0.5
    mean = np.where(np.arange(4000) < 1500, 0.7, 0.1)
    values = (random.random(4000) < np.where(candidate, mean, 0.4)).astype(float)
    trial = Trial(candidate=candidate, probability=np.full(4000, 0.5), values=values)
    looks = [compare(trial.only(slice(num)), **ALPHAS) for num in range(0, 4001, 250)]
    assert [looks[0].decided, looks[-1].decided] == [0, 1]
    for before, after in itertools.pairwise(looks):
        assert after.decided == before.decided or before.decided == 0
        assert after.p_value <= before.p_value
        assert after.low >= before.low
        assert after.high <= before.high
    assert looks[6].readable
    assert not looks[-1].readable


def test_before_any_user_nothing_is_known():
    nothing = compare(simulate(np.array([])), **ALPHAS)
    assert (nothing.difference, nothing.low, nothing.high, nothing.p_value, nothing.decided) == (None, -1, 1, 1, 0)
    assert (nothing.num_candidate, nothing.num_predecessor) == (0, 0)
    assert not worse(simulate(np.array([])), alpha=ALPHA).exceeded
    assert worse_paired(np.array([]), np.array([]), alpha=ALPHA).mean is None


def test_swapping_the_arms_mirrors_the_comparison():
    trial = simulate(np.full(1000, 0.4), 0.25, effect=0.2)
    there = compare(trial, **ALPHAS)
    back = compare(replace(trial, candidate=~trial.candidate, probability=1 - trial.probability), **ALPHAS)
    assert there.decided == -back.decided == 1
    assert there.p_value == pytest.approx(back.p_value)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_the_interval_holds_exactly_what_is_not_rejected():
    trial = replace(simulate(np.full(1000, 0.5), 0.3), values=generator(3).random(1000))
    found = compare(trial, **ALPHAS)
    up, least = effects(trial)
    down, least_down = effects(replace(trial, values=1 - trial.values))
    for m in np.linspace(-0.5, 0.5, 101):
        rejected = max(log_wealth(up - least, m - least)[-1], log_wealth(down - least_down, -m - least_down)[-1])
        assert (found.low <= m <= found.high) == (rejected < math.log(2 / ALPHA))
    assert found.low < found.difference < found.high


def test_of_a_difference_that_is_only_just_significant_the_interval_ends_at_zero():
    random = generator(5)
    candidate = random.random(60) < 0.3
    values = np.where(candidate, random.random(60) < 0.2, random.random(60) < 0.8).astype(float)
    trial = Trial(candidate=candidate, probability=np.full(60, 0.3), values=values)
    alpha = compare(trial, alpha_higher=0.05, alpha_lower=0.0125).p_value / 2 * (1 + 1e-9)
    only_just = compare(trial, alpha_higher=0.05, alpha_lower=alpha)
    assert (only_just.decided, str(only_just.high)) == (-1, "0.0")


def test_worse_by_more_than_allowed():
    for allowed, means in ((0.05, MEANS["flat"]), (0.0, MEANS["outage"] / 2)):
        found = [
            worse(simulate(means, 0.25, effect=allowed, seed=seed), alpha=ALPHA, by=allowed).exceeded
            for seed in range(60)
        ]
        assert false_alarms_are_at_most(ALPHA, sum(found), 60)
    # Half as many again of a rate that moves.
    ratio = [
        worse(simulate(means, 0.25, effect=0.5 * means, seed=seed), alpha=ALPHA, ratio=1.5).exceeded
        for means in (MEANS["days"] / 4,)
        for seed in range(60)
    ]
    assert false_alarms_are_at_most(ALPHA, sum(ratio), 60)
    found = worse(simulate(np.full(1000, 0.1), 0.25, effect=0.5), alpha=0.01, ratio=1.5)
    assert found.exceeded
    assert found.limit == pytest.approx(0.15, abs=0.1)
    assert found.mean > found.limit


def test_pairs_in_the_shadow_by_hand():
    ours, theirs = np.ones(50), np.zeros(50)
    found = worse_paired(ours, theirs, alpha=0.01, by=0.1)
    assert found.exceeded
    assert (found.mean, found.limit) == (1.0, 0.1)
    assert found.p_value == pytest.approx(math.exp(-log_wealth(np.full(50, 2.0), 1.1)[-1]))
    assert not worse_paired(theirs, theirs, alpha=0.01).exceeded
