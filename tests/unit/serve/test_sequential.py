"""Betting tests: closed forms, a slow oracle, and small simulations with fixed seeds."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from serve.sequential import STAKES, compare, exceeds, log_wealth, pairs, quantile_bound, quantile_worse, worse

ALPHA = 0.05


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def users(mean, num, seed=0):
    return (generator(seed).random(num) < mean).astype(float)


def false_alarms_are_at_most(alpha, num_alarms, num_experiments):
    """Whether so many alarms could come from a probability of alpha; wrongly no in one of 10,000 tests."""
    return stats.binom.sf(num_alarms - 1, num_experiments, alpha) > 1e-4


def test_wealth_is_the_mean_of_the_bettors():
    values, limit = [0.0, 1.0, 0.25, 1.0], 0.4
    bettors, wealth = [1.0] * len(STAKES), [1.0]
    for value in values:
        bettors = [money * (1 + stake * (value / limit - 1)) for money, stake in zip(bettors, STAKES, strict=True)]
        wealth.append(sum(bettors) / len(bettors))
    best = list(itertools.accumulate(wealth, max))[1:]
    assert np.exp(log_wealth(np.array(values), limit)) == pytest.approx(best)


def test_no_bet_gains_on_average_when_the_claim_is_true():
    # All 2 ** 8 outcomes of eight coins, weighted by their probability: exact, no simulation.
    limit = 0.3
    outcomes = np.array(list(itertools.product([0.0, 1.0], repeat=8)))
    probability = np.where(outcomes == 1, limit, 1 - limit).prod(axis=1)
    final = (1 + STAKES[:, None, None] * (outcomes / limit - 1)).prod(axis=2).mean(axis=0)
    assert probability @ final == pytest.approx(1.0)
    # Ville's inequality for the best wealth, which is what decides.
    best = np.array([log_wealth(row, limit)[-1] for row in outcomes])
    for alpha in (0.5, 0.2, 0.1):
        assert probability @ (best >= -math.log(alpha)) <= alpha


def test_wealth_falls_with_the_limit():
    values = users(0.3, 200)
    rows = [log_wealth(values, limit) for limit in (0.1, 0.2, 0.3, 0.5, 0.9)]
    assert all((low >= high).all() for low, high in itertools.pairwise(rows))


def test_pairs_follow_the_planned_ratio():
    ours, theirs = pairs(np.array([1.0, 0.0, 1.0]), np.arange(7.0), 0.25)
    assert (ours == [1.0, 0.0]).all()
    assert (theirs == [1.0, 4.0]).all()
    theirs, ours = pairs(np.arange(7.0), np.array([1.0, 0.0, 1.0]), 0.75)
    assert (ours == [1.0, 0.0]).all()
    assert (theirs == [1.0, 4.0]).all()


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.4, 0.5, 0.9])
def test_later_data_add_pairs_and_change_none(share):
    random = generator()
    ours, theirs = random.random(300), random.random(300)
    whole = np.stack(pairs(ours, theirs, share))
    for num_ours, num_theirs in ((0, 300), (3, 290), (150, 20), (299, 300), (300, 0)):
        part = np.stack(pairs(ours[:num_ours], theirs[:num_theirs], share))
        assert (part == whole[:, : part.shape[1]]).all()


def test_what_was_decided_at_a_look_stays_decided_and_intervals_only_shrink():
    # A candidate that starts better and then becomes worse: the first finding stands.
    ours, theirs = np.concatenate([users(0.8, 300), users(0.1, 700)]), users(0.4, 1000, seed=1)
    looks = [compare(ours[:num], theirs[:num], share=0.5, alpha=ALPHA) for num in range(0, 1001, 50)]
    assert [looks[0].decided, looks[-1].decided] == [0, 1]
    for before, after in itertools.pairwise(looks):
        assert after.decided == before.decided or before.decided == 0
        assert after.p_value <= before.p_value
        assert after.low >= before.low
        assert after.high <= before.high


def test_before_any_pair_nothing_is_known():
    nothing = compare(np.array([]), np.array([1.0]), share=0.5, alpha=ALPHA)
    assert (nothing.difference, nothing.low, nothing.high, nothing.p_value, nothing.decided) == (None, -1, 1, 1, 0)
    assert (nothing.num_candidate, nothing.num_predecessor) == (0, 1)
    assert exceeds(np.array([]), 0.1, alpha=ALPHA).mean is None
    assert not worse(np.array([]), np.array([]), share=0.5, alpha=ALPHA).exceeded


def test_swapping_the_arms_mirrors_the_comparison():
    ours, theirs = users(0.6, 400), users(0.4, 400, seed=1)
    there = compare(ours, theirs, share=0.5, alpha=ALPHA)
    back = compare(theirs, ours, share=0.5, alpha=ALPHA)
    assert there.decided == -back.decided == 1
    assert there.p_value == pytest.approx(back.p_value)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_the_interval_holds_exactly_what_is_not_rejected():
    ours, theirs = generator().random(500), generator(1).random(500)
    found = compare(ours, theirs, share=0.5, alpha=ALPHA)
    for m in np.linspace(-0.5, 0.5, 101):
        rejected = max(log_wealth(1 + ours - theirs, 1 + m)[-1], log_wealth(1 + theirs - ours, 1 - m)[-1])
        assert (found.low <= m <= found.high) == (rejected < math.log(2 / ALPHA))
    assert found.low < found.difference < found.high


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_equal_arms_are_seldom_told_apart_though_looked_at_after_every_pair(share):
    random, num_experiments, num_pairs = generator(), 300, 200
    k = round((1 - share) / share)
    alarms = naive = 0
    for _ in range(num_experiments):
        ours, theirs = (random.random(size) < 0.3 for size in (num_pairs, num_pairs * k))
        up = 1.0 + np.subtract(*pairs(ours.astype(float), theirs.astype(float), share))
        rejected = max(log_wealth(up, 1.0)[-1], log_wealth(2 - up, 1.0)[-1]) >= math.log(2 / ALPHA)
        alarms += rejected
        counts = np.arange(20, num_pairs + 1)
        means, squares = up.cumsum()[19:] / counts, (up**2).cumsum()[19:] / counts
        naive += (np.abs(means - 1) > 1.96 * np.sqrt((squares - means**2) / counts)).any()
    assert false_alarms_are_at_most(ALPHA, alarms, num_experiments)
    # The same looks at a fixed-size test: why this module exists.
    assert naive > 3 * ALPHA * num_experiments


def test_a_difference_is_found_and_covered():
    random = generator()
    found = [
        compare(
            (random.random(1000) < 0.45).astype(float),
            (random.random(1000) < 0.3).astype(float),
            share=0.5,
            alpha=ALPHA,
        )
        for _ in range(40)
    ]
    assert all(each.decided == 1 for each in found)
    assert sum(each.low <= 0.15 <= each.high for each in found) >= 36


def test_a_limit_is_held_and_its_breach_is_noticed():
    random = generator()
    at_limit = random.random((400, 1000)) < 0.02
    alarms = sum(exceeds(row.astype(float), 0.02, alpha=0.05).exceeded for row in at_limit)
    assert false_alarms_are_at_most(0.05, alarms, 400)
    evidence = exceeds(users(0.1, 500), 0.02, alpha=0.01)
    assert evidence.exceeded
    assert evidence.mean == pytest.approx(0.1, abs=0.03)
    assert evidence.p_value <= 0.01
    assert evidence.num_samples == 500


def test_a_limit_of_zero_is_broken_by_one_value():
    assert not exceeds(np.zeros(10_000), 0.0, alpha=0.01).exceeded
    broken = exceeds(np.append(np.zeros(10_000), 1.0), 0.0, alpha=0.01)
    assert broken.exceeded
    assert broken.p_value == 0.0


def test_worse_by_more_than_allowed():
    random = generator()
    theirs = (random.random((200, 900)) < 0.1).astype(float)
    ours = (random.random((200, 300)) < 0.15).astype(float)
    allowed = [worse(*arms, share=0.25, alpha=0.05, ratio=1.5) for arms in zip(ours, theirs, strict=True)]
    assert false_alarms_are_at_most(0.05, sum(each.exceeded for each in allowed), 200)
    allowed = [worse(*arms, share=0.25, alpha=0.05, by=0.05) for arms in zip(ours, theirs, strict=True)]
    assert false_alarms_are_at_most(0.05, sum(each.exceeded for each in allowed), 200)
    found = worse(users(0.5, 300), theirs[0], share=0.25, alpha=0.01, ratio=1.5)
    assert found.exceeded
    assert found.limit == pytest.approx(1.5 * theirs[0].mean())


def test_the_bound_of_a_quantile():
    random = generator()
    rows = random.exponential(size=(150, 600))
    bounds = [quantile_bound(row, 0.9, alpha=0.05) for row in rows]
    below = sum(bound < -math.log(0.1) for bound in bounds)
    assert false_alarms_are_at_most(0.05, below, len(rows))
    assert quantile_bound(rows[0, :20], 0.9, alpha=0.05) is None
    looks = [quantile_bound(rows[0, :num], 0.9, alpha=0.05) for num in range(100, 601, 100)]
    assert all(after <= before for before, after in itertools.pairwise(looks))


def test_a_slow_candidate_is_noticed_and_an_equal_one_is_not():
    random = generator()
    theirs = random.exponential(size=(100, 2000))
    equal = [
        quantile_worse(ours, row, 0.95, alpha=0.05, ratio=1.0).exceeded
        for ours, row in zip(random.exponential(size=(100, 500)), theirs, strict=True)
    ]
    assert false_alarms_are_at_most(0.05, sum(equal), 100)
    slow = quantile_worse(3 * random.exponential(size=500), theirs[0], 0.95, alpha=0.01, ratio=1.2)
    assert slow.exceeded
    unknown = quantile_worse(3 * random.exponential(size=500), theirs[0, :20], 0.95, alpha=0.01)
    assert not unknown.exceeded
    assert unknown.limit is None
