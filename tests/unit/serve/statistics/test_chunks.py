"""Tests go on from what they know: in random chunks they end where they do with all values at once."""

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest

from serve.releases.config import GuardrailConfig
from serve.releases.guardrails import Guardrail, inspect_guardrail
from serve.statistics.betting import Bets, ExceedanceTest, exceeds, log_wealth
from serve.statistics.bounds import POINTS, Bound
from serve.statistics.quantiles import Histogram, QuantileLevels
from serve.statistics.responders import RespondersTest, responders
from serve.statistics.sample_ratio import ArmCounts, check_sample_ratio
from serve.statistics.sequential import ComparisonTest, Trial, WorseningTest, compare, effects, worse, worse_paired
from serve.statistics.visits import Unit
from tests.unit.serve.samples import generator

ALPHAS = {"alpha_higher": 0.05, "alpha_lower": 0.01}


def simulate(num=6000, *, effect=0.0, share=0.3, silent=0.0, seed=0):
    random = generator(seed)
    candidate = random.random(num) < share
    values = (random.random(num) < 0.4 + effect * candidate).astype(float)
    values[random.random(num) < silent] = np.nan
    return Trial(candidate=candidate, probability=np.full(num, share), values=values)


def chunks(num, seed):
    """Slices from 0 to `num`, empty ones and single values among them."""
    random = generator(seed)
    edges = np.sort(np.concatenate([[0, num, 5, 5, 6], random.integers(0, num, 6)]))
    return [slice(*ends) for ends in pairwise(edges)]


def assert_alike(found, wanted):
    for name, value in asdict(wanted).items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("effect", [0.0, 0.1, -0.1])
def test_comparisons(effect, seed):
    trial = simulate(effect=effect, seed=seed)
    comparing, worsening = ComparisonTest(**ALPHAS), WorseningTest(Bets(0.01), 1.1, 0.01)
    for chunk in chunks(len(trial), seed):
        comparing.add(trial.only(chunk))
        worsening.add(trial.only(chunk))
        seen = trial.only(slice(chunk.stop))
        assert_alike(comparing.result(), compare(seen, **ALPHAS))
        assert_alike(worsening.evidence(), worse(seen, alpha=0.01, ratio=1.1, by=0.01))


@pytest.mark.parametrize("silent", [0.0, 0.7, 1.0])
def test_responders(silent):
    trial = simulate(3000, silent=silent, effect=0.2)
    responding = RespondersTest(**ALPHAS)
    for chunk in chunks(len(trial), 3):
        responding.add(trial.only(chunk))
        wanted = responders(trial.only(slice(chunk.stop)), **ALPHAS)
        assert_alike(responding.result().values, wanted.values)
        assert_alike(responding.result().rates, wanted.rates)


def test_single_claims_and_pairs():
    random = generator()
    values, ours, theirs = (random.random(9000) < share for share in (0.024, 0.12, 0.1))
    exceeding, pairs = ExceedanceTest(0.02, Bets(0.05)), WorseningTest(Bets(0.05))
    for chunk in chunks(9000, 1):
        exceeding.add(values[chunk].astype(float))
        pairs.add_pairs(ours[chunk].astype(float), theirs[chunk].astype(float))
        seen = slice(chunk.stop)
        assert_alike(exceeding.evidence(), exceeds(values[seen].astype(float), 0.02, alpha=0.05))
        assert_alike(pairs.evidence(), worse_paired(ours[seen].astype(float), theirs[seen].astype(float), alpha=0.05))
    assert exceeding.evidence().p_value == pytest.approx(np.exp(-log_wealth(values.astype(float), 0.02)[-1]))


@pytest.mark.parametrize("planned", [0.5, 0.45, 0.0])
def test_the_split(planned):
    arms = np.where(generator().random(5000) < 0.5, "new", "old").tolist()
    weights = {"new": planned, "old": 1 - planned}
    counts = ArmCounts(weights)
    for chunk in chunks(len(arms), 2):
        counts.add(arms[chunk])
        assert_alike(counts.result(), check_sample_ratio(arms[: chunk.stop], weights))


@pytest.mark.parametrize(
    "config",
    [
        GuardrailConfig(metric="latency_p95_s", at_most_ratio=1.2),
        GuardrailConfig(metric="latency_p95_s", at_most=2.0),
        GuardrailConfig(metric="completion_tokens", high=9.0, at_least=3.0),
        GuardrailConfig(metric="completion_tokens", high=9.0, worse_by=1.0, higher_is_better=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("both", [True, False])
def test_guardrails(config, both):
    random = generator(5)
    periods = []
    for num in (700, 1, 300):
        seconds = [random.lognormal(0, 1, int(random.integers(0, 4))).tolist() for _ in range(2 * num)]
        pairs = zip(seconds[::2], seconds[1::2], strict=True)
        if both:
            periods.append([Unit(candidate=ours, predecessor=theirs) for ours, theirs in pairs])
        else:
            periods.append([Unit(**{("candidate", "predecessor")[len(a) % 2]: b}) for a, b in pairs])
    guardrail = Guardrail("g", config, alpha=0.05)
    for number, units in enumerate(periods):
        for chunk in chunks(len(units), number) if len(units) > 6 else [slice(0, 1)]:
            guardrail.add(number, units[chunk])
    found, wanted = guardrail.finding(), inspect_guardrail("g", config, periods, alpha=0.05)
    assert (found.against, found.waits) == (wanted.against, wanted.waits)
    assert found.evidence.pop("test") == pytest.approx(wanted.evidence.pop("test"), abs=1e-9)
    assert found.evidence == pytest.approx(wanted.evidence, abs=1e-9)


def test_a_bound_is_the_last_point_of_the_grid_that_is_rejected():
    trial = simulate(2000, effect=0.3)
    estimates, least = effects(trial)
    bound, passes = Bound(0.05), []

    def whole():
        passes.append(1)
        return estimates, least

    for start in range(0, 2000, 100):
        bound.add(estimates[start : start + 100], least[start : start + 100])
    low = bound.value(whole)
    for mean, rejected in ((low, True), (low + 2 / POINTS, False)):
        wealth = log_wealth(estimates - least, np.maximum(mean - least, 0))[-1]
        assert (wealth >= -np.log(0.05)) == rejected
    assert bound.value(whole) == low
    assert len(passes) == 1, "where it does not move nothing is gone through"


def test_quantiles_of_all_and_of_the_latest():
    seconds = generator().lognormal(0, 1, 5000)
    histogram, levels = Histogram(), QuantileLevels(0.95)
    histogram.add(seconds)
    for value in seconds:
        levels.add([value])
    assert histogram.quantile(0.95) == pytest.approx(np.quantile(seconds, 0.95), rel=0.01)
    assert levels.level == pytest.approx(np.quantile(seconds[-1000:], 0.95), rel=1e-12)
    assert Histogram().quantile(0.5) is None
    histogram.add([0.0] * 10**4)
    assert histogram.quantile(0.1) < 1e-5
