"""Guardrails under load that both arms share, with users who send many requests, and the sentence of a breach."""

import numpy as np
import pytest

from serve.releases.config import GuardrailConfig
from serve.releases.guardrails import QuantileLevels, inspect_guardrail
from serve.statistics.visits import Unit
from tests.unit.serve.samples import false_alarms_are_at_most, generator

ALPHA = 0.05


def users(num, *, seed, share=0.5, requests=4, slower=1.0, load=(1.0, 1.0), errors=(0.01, 0.01), spread=0.0):
    """Users in order of time: latencies under a load that moves from its first to its second value after a quarter,
    multiplied by how slow each user's line is."""
    random = generator(seed)
    latencies, failures = [], []
    for number in range(num):
        candidate = random.random() < share
        moment = load[number >= num // 4]
        line = np.exp(spread * random.normal())
        seconds = moment * line * random.lognormal(0, 0.5, requests) * (slower if candidate else 1.0)
        failed = (random.random() < errors[0 if candidate else 1]) * np.ones(requests)
        arm = "candidate" if candidate else "predecessor"
        latencies.append(Unit(**{arm: list(seconds)}, probability=share))
        failures.append(Unit(**{arm: list(failed)}, probability=share))
    return latencies, failures


P95 = GuardrailConfig(metric="latency_p95_s", at_most_ratio=1.2)
ERRORS = GuardrailConfig(metric="error_rate", at_most_ratio=1.5)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_load_that_both_arms_share_is_no_breach(share):
    found = [
        inspect_guardrail("slow", P95, [users(1500, seed=seed, share=share, load=(1.0, 1.7))[0]], alpha=ALPHA).against
        for seed in range(20)
    ]
    assert false_alarms_are_at_most(ALPHA, sum(one is not None for one in found), len(found))


def test_users_with_many_requests_count_once():
    # Whole users fail: 50 equal values each.
    found = [
        inspect_guardrail("errors", ERRORS, [users(800, seed=seed, requests=50, errors=(0.05, 0.05))[1]], alpha=ALPHA)
        for seed in range(20)
    ]
    assert false_alarms_are_at_most(ALPHA, sum(one.against is not None for one in found), len(found))
    slow = [
        inspect_guardrail("slow", P95, [users(800, seed=seed, requests=50, spread=1.0)[0]], alpha=ALPHA)
        for seed in range(20)
    ]
    assert false_alarms_are_at_most(ALPHA, sum(one.against is not None for one in slow), len(slow))


def test_a_slower_candidate_is_found_under_moving_load():
    found = [
        inspect_guardrail("slow", P95, [users(1500, seed=seed, slower=2.0, load=(1.0, 1.7))[0]], alpha=0.01)
        for seed in range(10)
    ]
    assert all(one.against for one in found)
    assert "longer than 1.2 times the predecessor's current quantile" in found[0].against


def test_the_level_follows_the_predecessors_recent_requests():
    levels = QuantileLevels(0.95)
    levels.add([1.0] * 99)
    assert not levels.known
    levels.add([1.0])
    assert levels.level == 1.0
    levels.add([2.0] * 1000)
    assert levels.level == 2.0


def test_a_quantile_waits_for_users_whom_it_could_test():
    """Those who came before the predecessor's quantile was known were counted, and a slow candidate passed."""
    config = GuardrailConfig(metric="latency_p95_s", at_most_ratio=5.0, min_samples=20)
    slow = [Unit(candidate=[50.0] * 4, predecessor=[1.0] * 4)] * 26
    assert "too few requests of the predecessor" in inspect_guardrail("p", config, [slow[:24]], alpha=1e-9).waits[0]
    known = inspect_guardrail("p", config, [slow], alpha=1e-9)
    assert known.waits[0].endswith("has 1 of 20 users of the candidate with a value")
    assert known.evidence["num_candidate"] == 1


def test_the_sentence_shows_the_figures_that_decided():
    """Later users bring the mean of all below the limit; the sentence is of those at whom the limit was broken."""
    broken = [Unit(candidate=[1.0, 0.0])] * 40 + [Unit(candidate=[0.0])] * 4000
    found = inspect_guardrail("errors", GuardrailConfig(metric="error_rate", at_most=0.02), [broken], alpha=0.01)
    assert found.evidence["candidate"] < 0.02
    assert found.against.startswith("guardrail errors: error_rate is 0.5, above the limit 0.02 (at_most=0.02), after ")
    better = GuardrailConfig(metric="rating", low=1.0, high=5.0, at_least=3.0)
    sad = inspect_guardrail("stars", better, [[Unit(candidate=[1.0])] * 60], alpha=0.01)
    assert "rating is 1, below the limit 3 (at_least=3)" in sad.against


def test_the_shadow_compares_both_answers_to_a_request():
    random = generator()
    units = [
        Unit(candidate=[float(seconds) * 3], predecessor=[float(seconds)]) for seconds in random.lognormal(0, 0.5, 400)
    ]
    assert inspect_guardrail("slow", P95, [units], alpha=0.01).against
    same = [Unit(candidate=unit.predecessor, predecessor=unit.predecessor) for unit in units]
    assert inspect_guardrail("slow", P95, [same], alpha=0.01).against is None


def test_periods_are_tests_of_their_own():
    quiet = [Unit(candidate=[0.0])] * 500
    loud = [Unit(candidate=[1.0])] * 30
    config = GuardrailConfig(metric="error_rate", at_most=0.1)
    assert inspect_guardrail("errors", config, [quiet, loud], alpha=0.01).against
    # In one test the quiet users' losses would hide the others.
    assert inspect_guardrail("errors", config, [quiet + loud], alpha=0.01).against is None
