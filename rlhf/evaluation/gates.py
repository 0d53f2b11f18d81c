"""Verdicts on the conditions of a gate: passed, failed, undecided, or awaiting people.

A gate passes if every condition does. Its verdict on an interval is that of a one-sided test at 2.5 % in either
direction. Each improvement that it reports as passed is a claim of its own, so that several of them are adjusted by
Holm; a margin that must not be exceeded is a veto, and needs no adjustment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlhf.evaluation.gate_checks import Check, Measurement, Missing, Reason, State, all_of, checks_of, p_value_of
from rlhf.evaluation.gate_config import ConditionConfig, DecideBy, GateConfig
from rlhf.ops.multiplicity import holm
from rlhf.types import InputError

EXIT_CODES = {State.passed: 0, State.failed: 10, State.undecided: 11}
"""Exit code of a command by its gate's state. `command_line` has 2 for wrong input and 4 for a run that cannot
continue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Verdict on one condition."""

    condition: ConditionConfig
    state: State
    measurement: Measurement
    checks: tuple[Check, ...] = ()
    """Inequalities that decided, of which all must hold; empty if nothing could be compared."""
    reasons: tuple[Reason, ...] = ()
    p_value: float | None = None
    """p-value adjusted by Holm, of an improvement among several; otherwise None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """Verdicts on a gate's conditions."""

    verdicts: tuple[Verdict, ...]

    @property
    def state(self) -> State:
        """Failed if any condition failed, else undecided if any is undecided or awaits people, else passed."""
        states = {verdict.state for verdict in self.verdicts}
        if State.failed in states:
            return State.failed
        return State.undecided if states - {State.passed} else State.passed

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 0 passed, 10 failed, 11 undecided."""
        return EXIT_CODES[self.state]


def decide(gate: GateConfig, figures: Mapping[str, Measurement]) -> GateResult:
    """Return the verdicts on all conditions; `figures` maps SUITE/METRIC and SUITE/METRIC/SLICE to measurements.

    Raises InputError if a condition names a figure that `figures` lacks, compares with a baseline that was not
    evaluated or was evaluated on another version of the suite, or compares a figure without a better direction.
    """
    for condition in gate.conditions:
        check_figure(condition, figures)
    verdicts = [verdict_on(each, figures[each.figure], each.decide_by or gate.decide_by) for each in gate.conditions]
    return GateResult(verdicts=tuple(adjust(verdicts)))


def check_known(condition: ConditionConfig, names: Collection[str]) -> None:
    """Raise InputError for a condition on a figure that is none of `names`."""
    if condition.figure not in names:
        known = ", ".join(sorted(names)) or "none"
        raise InputError(f"gate: no suite gives the figure {condition.figure}: known are {known}")


def check_figure(condition: ConditionConfig, figures: Mapping[str, Measurement]) -> None:
    name = condition.figure
    check_known(condition, figures)
    measurement = figures[name]
    if not condition.needs_baseline or measurement.estimate is None:
        return
    if measurement.comparison is None:
        raise InputError(f"gate: {condition.kind} of {name} compares with a baseline, and none was evaluated: give one")
    if measurement.baseline_version != measurement.version:
        raise InputError(
            f"gate: the baseline of {name} was evaluated on version {measurement.baseline_version or 'unknown'} of the "
            f"suite, and the model on {measurement.version or 'unknown'}: evaluate the baseline again"
        )
    if measurement.larger_is_better is None:
        raise InputError(
            f"gate: {condition.kind} of {name}, of which neither direction is better: use at_least or at_most"
        )


def verdict_on(condition: ConditionConfig, measurement: Measurement, decide_by: DecideBy) -> Verdict:
    """Return the verdict on one condition, whose figure `check_figure` accepted."""
    if measurement.missing is Missing.ratings:
        return Verdict(condition=condition, measurement=measurement, state=State.awaiting, reasons=(Reason.no_ratings,))
    if measurement.estimate is None:
        reason = Reason.no_grades if measurement.missing is Missing.grades else Reason.no_figure
        return Verdict(condition=condition, measurement=measurement, state=State.undecided, reasons=(reason,))
    checks, reasons = checks_of(condition, measurement)
    if not checks:
        return Verdict(condition=condition, measurement=measurement, state=State.undecided, reasons=reasons)
    if any(np.isnan(check.estimate.mean) for check in checks):
        reasons += (Reason.no_figure,)
    elif decide_by is DecideBy.point:
        reasons += (Reason.by_point,)
    elif any(np.isnan(check.estimate.low) for check in checks):
        reasons += (Reason.no_interval,)
    state = all_of([check.state(decide_by) for check in checks])
    return Verdict(condition=condition, measurement=measurement, state=state, checks=checks, reasons=reasons)


def adjust(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Adjust the p-values of improvements by Holm if intervals decided several of them; one that passed alone but not
    among them is undecided."""
    places = [i for i, verdict in enumerate(verdicts) if has_p_value(verdict)]
    if len(places) < 2:
        return list(verdicts)
    result = list(verdicts)
    adjusted = holm([max(p_value_of(check) for check in verdicts[i].checks) for i in places])
    for i, p_value in zip(places, adjusted, strict=True):
        old = verdicts[i]
        loses = old.state is State.passed and p_value > 0.05
        result[i] = replace(
            old,
            state=State.undecided if loses else old.state,
            reasons=(*old.reasons, Reason.adjusted) if loses else old.reasons,
            p_value=float(p_value),
        )
    return result


def has_p_value(verdict: Verdict) -> bool:
    known = all(check.estimate.low <= check.estimate.high for check in verdict.checks)
    return verdict.condition.kind == "improves_by" and bool(verdict.checks) and known and not by_point(verdict)


def by_point(verdict: Verdict) -> bool:
    return Reason.by_point in verdict.reasons
