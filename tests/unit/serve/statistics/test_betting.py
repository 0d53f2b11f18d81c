"""Betting tests: closed forms, a slow oracle, and small simulations with fixed seeds."""

import itertools
import math

import numpy as np
import pytest

from serve.statistics.betting import STAKES, exceeds, log_wealth, over_periods, share_of_alpha
from tests.unit.serve.samples import false_alarms_are_at_most, generator


def users(mean, num, seed=0):
    return (generator(seed).random(num) < mean).astype(float)


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


def test_a_limit_is_held_and_its_breach_is_noticed():
    random = generator()
    at_limit = random.random((400, 1000)) < 0.02
    alarms = sum(exceeds(row.astype(float), 0.02, alpha=0.05).exceeded for row in at_limit)
    assert false_alarms_are_at_most(0.05, alarms, 400)
    evidence = exceeds(users(0.1, 500), 0.02, alpha=0.01)
    assert evidence.exceeded
    assert evidence.mean > 0.02
    assert evidence.p_value <= 0.01
    quiet = exceeds(users(0.01, 500), 0.02, alpha=0.01)
    assert not quiet.exceeded
    assert quiet.mean == pytest.approx(0.01, abs=0.01)
    assert quiet.num_samples == 500


def test_a_limit_of_zero_is_broken_by_one_value():
    assert not exceeds(np.zeros(10_000), 0.0, alpha=0.01).exceeded
    broken = exceeds(np.append(np.zeros(10_000), 1.0), 0.0, alpha=0.01)
    assert broken.exceeded
    assert broken.p_value == 0.0


def test_each_value_may_have_its_own_limit():
    values, limits = users(0.3, 50), generator(1).random(50) + 0.1
    one_by_one = [math.exp(log_wealth(values[:num], limits[:num])[-1]) for num in range(1, 51)]
    bettors = np.cumprod(1 + STAKES[:, None] * (values / limits - 1), axis=1).mean(axis=0)
    assert one_by_one == pytest.approx(np.maximum(1, np.maximum.accumulate(bettors)))


def test_the_figures_are_those_that_decided():
    # Ten breaches, then nothing more: the mean of all is below the limit, that of those which decided is not.
    found = exceeds(np.concatenate([np.ones(10), np.zeros(1000)]), 0.02, alpha=0.01)
    assert found.exceeded
    assert found.num_samples <= 10
    assert found.mean == 1.0


def test_periods_share_alpha_and_the_first_rejection_stays():
    assert sum(share_of_alpha(0.05, period) for period in range(10_000)) == pytest.approx(0.05, rel=1e-3)
    quiet, loud = np.zeros(200), np.ones(30)
    tests = [
        exceeds(values, 0.1, alpha=share_of_alpha(0.05, period)) for period, values in enumerate((quiet, loud, quiet))
    ]
    found = over_periods(tests)
    assert found.exceeded
    assert found.num_samples == tests[1].num_samples
    assert over_periods(tests[:1]) == tests[0]
    # Six times the second period's own p-value: its alpha is a sixth.
    assert found.p_value == pytest.approx(min(1.0, 6 * tests[1].p_value))
