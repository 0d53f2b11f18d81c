"""Truth table of gates, what cannot be decided, and every mistake in a gate's configuration."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from rlhf.evaluation.estimates import Comparison, PairedTest, compare
from rlhf.evaluation.gate_checks import Measurement, Missing, Quantity, Reason, State
from rlhf.evaluation.gate_config import ConditionConfig, DecideBy, GateConfig
from rlhf.evaluation.gates import GateResult, decide
from rlhf.ops.intervals import Estimate
from rlhf.types import InputError
from tests.unit.evaluation.metric_fakes import Right, rows

NAME = "cmmlu/准确率"
NAN = float("nan")


def estimate(mean: float, low: float, high: float) -> Estimate:
    return Estimate(mean=mean, low=low, high=high)


def comparison(difference: Estimate, **changes: object) -> Comparison:
    one = Comparison(
        ours=0.5 + difference.mean,
        theirs=0.5,
        difference=difference,
        gain=estimate(2 * difference.mean, 2 * difference.low, 2 * difference.high),
        win_rate=estimate(0.5 + difference.mean / 2, 0.5 + difference.low / 2, 0.5 + difference.high / 2),
        deviation=0.5,
        p_value=0.01 if difference.low > 0 or difference.high < 0 else 0.3,
        test=PairedTest.sign_flip,
        num_clusters=100,
        detectable=0.1,
    )
    return replace(one, **changes)


def measured(difference: Estimate | None = None, **changes: object) -> Measurement:
    compared = None if difference is None else comparison(difference)
    return replace(Measurement(estimate=estimate(0.8, 0.75, 0.85), comparison=compared), **changes)


def gate(*conditions: dict[str, object], decide_by: DecideBy = DecideBy.interval) -> GateConfig:
    each = [ConditionConfig(**{"figure": NAME, **condition}) for condition in conditions]
    return GateConfig(conditions=each, decide_by=decide_by)


def state(condition: dict[str, object], what: Measurement, decide_by: DecideBy = DecideBy.interval) -> State:
    return decide(gate(condition, decide_by=decide_by), {NAME: what}).verdicts[0].state


@pytest.mark.parametrize(
    ("condition", "by_interval", "by_point"),
    [
        ({"at_least": 0.7}, State.passed, State.passed),
        ({"at_least": 0.75}, State.passed, State.passed),
        ({"at_least": 0.78}, State.undecided, State.passed),
        ({"at_least": 0.8}, State.undecided, State.passed),
        ({"at_least": 0.82}, State.undecided, State.failed),
        ({"at_least": 0.9}, State.failed, State.failed),
        ({"at_most": 0.9}, State.passed, State.passed),
        ({"at_most": 0.82}, State.undecided, State.passed),
        ({"at_most": 0.78}, State.undecided, State.failed),
        ({"at_most": 0.7}, State.failed, State.failed),
    ],
)
def test_absolute_thresholds(condition: dict[str, object], by_interval: State, by_point: State) -> None:
    assert state(condition, measured()) is by_interval
    assert state(condition, measured(), DecideBy.point) is by_point


@pytest.mark.parametrize(
    ("condition", "ends", "expected"),
    [
        ({"improves_by": 0.0}, (0.01, 0.09), State.passed),
        ({"improves_by": 0.0}, (-0.01, 0.11), State.undecided),
        ({"improves_by": 0.0}, (-0.09, -0.01), State.failed),
        ({"improves_by": 0.02}, (0.03, 0.07), State.passed),
        ({"improves_by": 0.02}, (0.02, 0.08), State.undecided),
        ({"improves_by": 0.02}, (0.01, 0.09), State.undecided),
        ({"improves_by": 0.02}, (-0.05, 0.01), State.failed),
        ({"improves_by": 0.1, "relative": True}, (0.06, 0.1), State.passed),
        ({"improves_by": 0.1, "relative": True}, (0.04, 0.1), State.undecided),
        ({"improves_by": 0.1, "relative": True}, (0.0, 0.04), State.failed),
        ({"not_worse_than": 0.02}, (-0.02, 0.04), State.passed),
        ({"not_worse_than": 0.02}, (-0.03, 0.05), State.undecided),
        ({"not_worse_than": 0.02}, (-0.1, -0.03), State.failed),
        ({"not_worse_than": 0.05, "relative": True}, (-0.02, 0.04), State.passed),
        ({"not_worse_than": 0.05, "relative": True}, (-0.1, -0.03), State.failed),
    ],
)
def test_thresholds_against_a_baseline(
    condition: dict[str, object], ends: tuple[float, float], expected: State
) -> None:
    difference = estimate(sum(ends) / 2, *ends)
    assert state(condition, measured(difference)) is expected
    mirrored = estimate(-difference.mean, -ends[1], -ends[0])
    assert state(condition, measured(mirrored, larger_is_better=False)) is expected


def test_any_improvement_follows_the_test_where_the_interval_ends_at_zero() -> None:
    at_zero = estimate(0.04, 0.0, 0.08)
    for p_value, expected in ((0.04, State.passed), (0.06, State.undecided)):
        what = replace(measured(), comparison=comparison(at_zero, p_value=p_value))
        assert state({"improves_by": 0.0}, what) is expected


def test_a_gate_on_real_comparisons() -> None:
    random = np.random.default_rng(0)
    theirs = (random.random(400) < 0.5).astype(float)
    ours = np.maximum(theirs, random.random(400) < 0.3)
    for one, other, expected in ((ours, theirs, State.passed), (theirs, ours, State.failed)):
        what = measured(None, comparison=compare(Right(), rows(one), rows(other), np.arange(400)))
        assert state({"improves_by": 0.05}, what) is expected
        assert state({"not_worse_than": 0.05}, what) is expected
    same = measured(None, comparison=compare(Right(), rows(ours), rows(ours), np.arange(400)))
    assert state({"not_worse_than": 0.02}, same) is State.passed
    assert state({"improves_by": 0.0}, same) is State.undecided


@pytest.mark.parametrize(
    ("what", "expected", "reason"),
    [
        (Measurement(missing=Missing.ratings), State.awaiting, Reason.no_ratings),
        (Measurement(missing=Missing.grades), State.undecided, Reason.no_grades),
        (Measurement(), State.undecided, Reason.no_figure),
        (measured(estimate=estimate(NAN, NAN, NAN)), State.undecided, Reason.no_figure),
        (measured(estimate=estimate(0.9, NAN, NAN)), State.undecided, Reason.no_interval),
    ],
)
def test_what_cannot_be_decided_says_why(what: Measurement, expected: State, reason: Reason) -> None:
    (verdict,) = decide(gate({"at_least": 0.7}), {NAME: what}).verdicts
    assert (verdict.state, verdict.reasons) == (expected, (reason,))


def test_a_point_decides_without_an_interval_and_says_so() -> None:
    what = measured(estimate=estimate(0.9, NAN, NAN))
    (verdict,) = decide(gate({"at_least": 0.7}, decide_by=DecideBy.point), {NAME: what}).verdicts
    assert (verdict.state, verdict.reasons) == (State.passed, (Reason.by_point,))
    assert state({"at_least": 0.7, "decide_by": DecideBy.point}, what) is State.passed
    nan = measured(estimate=estimate(NAN, NAN, NAN))
    assert state({"at_least": 0.7}, nan, DecideBy.point) is State.undecided


@pytest.mark.parametrize(
    ("ends", "expected"),
    [((0.22, 0.4), State.passed), ((0.12, 0.4), State.undecided), ((-0.1, 0.05), State.failed)],
)
def test_a_relative_gain_of_a_score_without_zero_is_translated(ends: tuple[float, float], expected: State) -> None:
    # With a deviation of .5, a win rate of (1 + .2) / 2 needs a difference of .2, and .2 deviations one of .1.
    what = measured(estimate(sum(ends) / 2, *ends), has_zero=False)
    (verdict,) = decide(gate({"improves_by": 0.2, "relative": True}), {NAME: what}).verdicts
    assert verdict.state is expected
    assert verdict.reasons == (Reason.translated,)
    assert [(check.quantity, check.threshold) for check in verdict.checks] == [
        (Quantity.win_rate, 0.6),
        (Quantity.deviations, 0.2),
    ]
    assert verdict.checks[1].estimate.low == pytest.approx(ends[0] / 0.5)


@pytest.mark.parametrize("changes", [{"win_rate": None}, {"deviation": 0.0}, {"deviation": NAN}])
def test_a_relative_gain_that_cannot_be_translated_is_undecided(changes: dict[str, object]) -> None:
    compared = comparison(estimate(0.3, 0.2, 0.4), **changes)
    what = replace(measured(), comparison=compared, has_zero=False)
    (verdict,) = decide(gate({"improves_by": 0.2, "relative": True}), {NAME: what}).verdicts
    assert (verdict.state, verdict.reasons) == (State.undecided, (Reason.no_zero,))
    whole = measured(estimate(0.3, 0.2, 0.4), has_zero=False)
    assert decide(gate({"improves_by": 1.5, "relative": True}), {NAME: whole}).verdicts[0].reasons == (Reason.no_zero,)


def test_a_relative_gain_on_a_baseline_of_zero_has_no_figure() -> None:
    what = replace(measured(), comparison=comparison(estimate(0.3, 0.2, 0.4), gain=estimate(NAN, NAN, NAN)))
    (verdict,) = decide(gate({"improves_by": 0.2, "relative": True}), {NAME: what}).verdicts
    assert verdict.reasons == (Reason.no_figure,)


def test_several_improvements_are_adjusted_by_holm() -> None:
    def p_values(*values: float) -> GateResult:
        figures = {
            f"s/{i}": replace(measured(), comparison=comparison(estimate(0.05, 0.001, 0.099), p_value=value))
            for i, value in enumerate(values)
        }
        return decide(gate(*({"figure": name, "improves_by": 0.0} for name in figures)), figures)

    alone = p_values(0.04).verdicts[0]
    assert (alone.state, alone.p_value) == (State.passed, None)
    together = p_values(0.04, 0.001, 0.03)
    assert [verdict.state for verdict in together.verdicts] == [State.undecided, State.passed, State.undecided]
    assert [verdict.p_value for verdict in together.verdicts] == pytest.approx([0.06, 0.003, 0.06])
    assert together.verdicts[0].reasons == (Reason.adjusted,)
    assert p_values(0.02, 0.001).state is State.passed


def test_an_improvement_over_a_margin_has_the_p_value_of_its_interval() -> None:
    figures = {
        "s/a": measured(estimate(0.05, 0.02, 0.08)),
        "s/b": measured(estimate(0.06, 0.03, 0.09)),
        "s/c": measured(estimate(-0.06, -0.09, -0.03)),
    }
    conditions = [{"figure": name, "improves_by": 0.015} for name in figures]
    result = decide(gate(*conditions), figures)
    # .035 and .045 over arms of .03, in units of 1.96 standard errors.
    assert [verdict.p_value for verdict in result.verdicts] == pytest.approx([0.0444, 0.0098, 1.0], abs=1e-3)
    assert [verdict.state for verdict in result.verdicts] == [State.passed, State.passed, State.failed]


def test_margins_and_points_are_not_adjusted() -> None:
    figures = {name: measured(estimate(0.05, 0.001, 0.099)) for name in ("s/a", "s/b")}
    margins = gate(*({"figure": name, "not_worse_than": 0.0} for name in figures))
    assert all(verdict.p_value is None for verdict in decide(margins, figures).verdicts)
    points = gate(*({"figure": name, "improves_by": 0.0} for name in figures), decide_by=DecideBy.point)
    assert decide(points, figures).state is State.passed


@pytest.mark.parametrize(
    ("estimates", "expected", "code"),
    [
        ([0.9, 0.9], State.passed, 0),
        ([0.9, 0.7], State.undecided, 11),
        ([0.9, None], State.undecided, 11),
        ([0.5, 0.7, None], State.failed, 10),
        ([], State.passed, 0),
    ],
)
def test_one_failure_fails_a_gate(estimates: list[float | None], expected: State, code: int) -> None:
    figures = {
        f"s/{i}": Measurement(missing=Missing.ratings)
        if each is None
        else Measurement(estimate=estimate(each, each - 0.1, each + 0.05))
        for i, each in enumerate(estimates)
    }
    result = decide(gate(*({"figure": name, "at_least": 0.7} for name in figures)), figures)
    assert (result.state, result.exit_code) == (expected, code)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"figure": "准确率", "at_least": 1.0}, "write SUITE/METRIC"),
        ({"figure": "???", "at_least": 1.0}, "write SUITE/METRIC"),
        ({"figure": "a//b", "at_least": 1.0}, "write SUITE/METRIC"),
        ({}, "has no threshold: set exactly one"),
        ({"at_least": 0.5, "at_most": 0.9}, "has at_least and at_most"),
        ({"improves_by": -0.1}, "improves_by=-0.1 of cmmlu/准确率: give 0 or more"),
        ({"not_worse_than": -0.1}, "give 0 or more"),
        ({"at_least": 0.5, "relative": True}, "relative=true with at_least"),
        ({"at_least": math.nan}, "give a finite number"),
        ({"improves_by": math.inf}, "give a finite number"),
    ],
)
def test_mistakes_in_a_condition(condition: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gate(condition)


@pytest.mark.parametrize(
    ("condition", "what", "message"),
    [
        ({"figure": "cmmlu/f1", "at_least": 0.5}, measured(), "gives the figure cmmlu/f1: known are cmmlu/准确率"),
        ({"improves_by": 0.0}, measured(), "compares with a baseline, and none was evaluated"),
        (
            {"not_worse_than": 0.0},
            measured(estimate(0, 0, 0), version="b2", baseline_version="a1"),
            "baseline of cmmlu/准确率 was evaluated on version a1 of the suite, and the model on b2",
        ),
        ({"improves_by": 0.0}, measured(estimate(0, 0, 0), larger_is_better=None), "neither direction is better"),
    ],
)
def test_conditions_that_do_not_fit_the_evaluation(
    condition: dict[str, object], what: Measurement, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        decide(gate(condition), {NAME: what})


def test_a_baseline_of_another_version_does_not_matter_to_absolute_thresholds() -> None:
    assert state({"at_least": 0.7}, measured(estimate(0, 0, 0), version="b2", baseline_version="a1")) is State.passed


def test_a_gate_is_read_from_yaml() -> None:
    text = f"""
decide_by: point
conditions:
  - {{figure: {NAME}/初中, at_least: 0.85}}
  - {{figure: reward/mean, improves_by: 0.2, relative: true, decide_by: interval}}
"""
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(GateConfig), OmegaConf.create(text)))
    assert isinstance(config, GateConfig)
    first, second = config.conditions
    assert (config.decide_by, first.figure, first.kind, first.threshold) == (
        DecideBy.point, "cmmlu/准确率/初中", "at_least", 0.85
    )  # fmt: skip
    assert (second.relative, second.decide_by) == (True, DecideBy.interval)
