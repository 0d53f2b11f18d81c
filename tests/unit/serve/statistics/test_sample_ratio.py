"""Sample-ratio mismatch."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import betaln

from serve.statistics.sample_ratio import CONCENTRATIONS, check_sample_ratio

HALVES = {"new": 0.5, "old": 0.5}


def arms(share, num, seed=0):
    draws = np.random.Generator(np.random.PCG64(seed)).random(num)
    return np.where(draws < share, "new", "old").tolist()


def test_bayes_factor_by_its_formula():
    found = check_sample_ratio(["new"] * 30, HALVES)
    factors = [
        math.exp(betaln(concentration / 2 + 30, concentration / 2) - betaln(concentration / 2, concentration / 2))
        / 0.5**30
        for concentration in CONCENTRATIONS
    ]
    assert 1 / found.p_value == pytest.approx(sum(factors) / len(factors))
    assert found.mismatched
    assert found.counts == {"new": 30, "old": 0}
    assert found.expected == {"new": 15.0, "old": 15.0}


def test_a_right_split_is_seldom_called_wrong_though_looked_at_after_every_user():
    alarms = sum(check_sample_ratio(arms(0.5, 500, seed), HALVES, alpha=0.05).mismatched for seed in range(300))
    assert stats.binom.sf(alarms - 1, 300, 0.05) > 1e-4


@pytest.mark.parametrize(("planned", "real"), [(0.5, 0.55), (0.5, 0.4), (0.01, 0.02), (0.25, 0.2)])
def test_a_wrong_split_is_noticed_and_stays_so(planned, real):
    sequence = arms(real, 10_000)
    looks = [check_sample_ratio(sequence[:num], {"new": planned, "old": 1 - planned}) for num in range(0, 10_001, 1000)]
    assert looks[0].p_value == 1
    assert not looks[0].mismatched
    assert looks[-1].mismatched
    assert all(after.p_value <= before.p_value for before, after in itertools.pairwise(looks))


def test_three_arms():
    weights = {"a": 0.2, "b": 0.3, "c": 0.5}
    assert not check_sample_ratio(["a", "b", "c", "c", "b", "c", "a", "c", "b", "c"] * 100, weights).mismatched
    assert check_sample_ratio(["a", "b", "c"] * 400, weights).mismatched


def test_a_user_in_an_arm_without_weight_is_a_mismatch():
    for weights in ({"old": 1.0, "new": 0.0}, {"old": 1.0}):
        found = check_sample_ratio(["old", "new"], weights)
        assert found.mismatched
        assert found.counts == {"old": 1, "new": 1}
