"""Inequalities of a gate's conditions, on the interval or the point of what was measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from scipy import special

from rlhf.evaluation.estimates import Comparison
from rlhf.evaluation.gate_config import ConditionConfig, DecideBy
from rlhf.ops.intervals import Estimate, Z


class State(StrEnum):
    """Verdict on a condition or a gate."""

    passed = "passed"
    failed = "failed"
    undecided = "undecided"
    awaiting = "awaiting people"


class Missing(StrEnum):
    """Data without which a figure cannot be computed."""

    grades = "grades"
    """Grades of several answers to one prompt, which rank correlations need."""
    ratings = "ratings"
    """A rating sheet that people filled in."""


class Reason(StrEnum):
    """Reason for a verdict, or remark on it."""

    no_grades = "no grades"
    no_ratings = "no ratings"
    no_figure = "no figure"
    no_interval = "no interval"
    no_zero = "no zero"
    by_point = "by point"
    translated = "translated"
    adjusted = "adjusted"


class Quantity(StrEnum):
    """Quantity that a threshold is on."""

    figure = "figure"
    difference = "difference"
    """Difference from the baseline, in the figure's unit."""
    gain = "gain"
    """Difference as a share of the baseline's figure."""
    win_rate = "win rate"
    """Share of answers that beat the baseline's, ties half."""
    deviations = "deviations"
    """Difference in standard deviations of the baseline's answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A figure of an evaluation, as a gate reads it."""

    estimate: Estimate | None = None
    """None: it could not be computed, for want of `missing`."""
    missing: Missing | None = None
    larger_is_better: bool | None = True
    """`Metric.larger_is_better`."""
    has_zero: bool = True
    """True if 0 of the figure means none of what it measures, so that ratios have a meaning. False for the reward of a
    Bradley-Terry model, which is known up to a constant."""
    version: str = ""
    """Version of the suite that gave the figure."""
    comparison: Comparison | None = None
    """Comparison with the baseline; None without one."""
    baseline_version: str = ""
    """Version of the suite that gave the baseline's figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One inequality: a quantity that must be at least, above or at most a threshold."""

    quantity: Quantity
    estimate: Estimate
    threshold: float
    relation: str
    """`≥`, `>` or `≤`."""
    tested: float | None = None
    """p-value of a test of `threshold` itself; None: the interval is the only test."""

    def state(self, decide_by: DecideBy) -> State:
        """Return the verdict; undecided if the part that decides is unknown."""
        estimate = self.estimate
        low, high = (estimate.mean,) * 2 if decide_by is DecideBy.point else (estimate.low, estimate.high)
        if not low <= high:
            return State.undecided
        if decide_by is DecideBy.interval and self.tested is not None and self.tested < 0.05:
            # The test rejected the threshold, at which the interval may end.
            return State.passed if estimate.mean > self.threshold else State.failed
        if self.relation == "≤":
            low, high, threshold = -high, -low, -self.threshold
        else:
            threshold = self.threshold
        if low > threshold or (low == threshold and self.relation != ">"):
            return State.passed
        # An interval that ends at a strict threshold belongs to a test that did not reject it.
        if high < threshold or (high == threshold and self.relation == ">" and decide_by is DecideBy.point):
            return State.failed
        return State.undecided


def all_of(states: Sequence[State]) -> State:
    for state in (State.failed, State.undecided):
        if state in states:
            return state
    return State.passed


def checks_of(condition: ConditionConfig, measurement: Measurement) -> tuple[tuple[Check, ...], tuple[Reason, ...]]:
    """Return the inequalities of a condition and remarks on them; no inequality if the condition has no meaning."""
    assert measurement.estimate is not None
    if not condition.needs_baseline:
        relation = "≥" if condition.kind == "at_least" else "≤"
        return (figure_check(Quantity.figure, measurement.estimate, condition.threshold, relation),), ()
    comparison = measurement.comparison
    assert comparison is not None
    better = 1.0 if measurement.larger_is_better else -1.0
    relation = ">" if condition.kind == "improves_by" else "≥"
    threshold = condition.threshold if condition.kind == "improves_by" else -condition.threshold
    if not condition.relative:
        tested = comparison.p_value if condition.kind == "improves_by" and threshold == 0 else None
        return (improvement_check(Quantity.difference, comparison.difference, threshold, relation, better, tested),), ()
    if measurement.has_zero:
        return (improvement_check(Quantity.gain, comparison.gain, threshold, relation, better),), ()
    return translate(comparison, threshold, relation, better)


def translate(
    comparison: Comparison, threshold: float, relation: str, better: float
) -> tuple[tuple[Check, ...], tuple[Reason, ...]]:
    """Translate a relative threshold r of a score without a zero: a win rate of (1 + r) / 2, at which wins exceed
    losses by r of the answers, and a difference of r standard deviations of the baseline's answers."""
    if comparison.win_rate is None or not comparison.deviation > 0 or not -1 < threshold < 1:
        return (), (Reason.no_zero,)
    won = comparison.win_rate if better > 0 else rescale(comparison.win_rate, -1.0, 1.0)
    deviations = rescale(comparison.difference, better / comparison.deviation)
    return (
        figure_check(Quantity.win_rate, won, (1 + threshold) / 2, relation),
        figure_check(Quantity.deviations, deviations, threshold, relation),
    ), (Reason.translated,)


def figure_check(
    quantity: Quantity, estimate: Estimate, threshold: float, relation: str, tested: float | None = None
) -> Check:
    return Check(quantity=quantity, estimate=estimate, threshold=threshold, relation=relation, tested=tested)


def improvement_check(
    quantity: Quantity, estimate: Estimate, threshold: float, relation: str, better: float, tested: float | None = None
) -> Check:
    """Return the inequality of an improvement, which is positive in the better direction."""
    return figure_check(quantity, rescale(estimate, better), threshold, relation, tested)


def rescale(estimate: Estimate, factor: float, offset: float = 0.0) -> Estimate:
    ends = sorted((offset + factor * estimate.low, offset + factor * estimate.high))
    return Estimate(mean=offset + factor * estimate.mean, low=ends[0], high=ends[1])


def p_value_of(check: Check) -> float:
    """Return the p-value of an improvement: 1 up to the threshold; above, two-sided, of a normal distribution whose
    standard error is that of the interval's lower arm, so that it is below 0.05 if and only if the interval is above
    the threshold."""
    distance = check.estimate.mean - check.threshold
    if distance <= 0:
        return 1.0
    if check.tested is not None:
        return check.tested
    arm = check.estimate.mean - check.estimate.low
    return float(2 * special.ndtr(-distance * Z / arm)) if arm > 0 else 0.0
