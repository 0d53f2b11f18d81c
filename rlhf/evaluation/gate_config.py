"""Configuration of a gate: conditions on figures, each with one threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from omegaconf import MISSING

from rlhf.types import InputError


class DecideBy(StrEnum):
    """Part of an estimate that is compared with the threshold."""

    interval = "interval"
    """Passed if the whole 95 % interval satisfies the condition, failed if none of it does, else undecided."""
    point = "point"
    """Passed if the figure satisfies the condition, else failed, however uncertain the figure is."""


@dataclass(kw_only=True, slots=True)
class ConditionConfig:
    """A condition on one figure. Exactly one of the four thresholds is set."""

    figure: str = MISSING
    """Name of the figure, as SUITE/METRIC, or SUITE/METRIC/SLICE for a part of the suite's items."""
    at_least: float | None = None
    """Smallest value of the figure, in its unit. None: no such condition."""
    at_most: float | None = None
    """Largest value of the figure, in its unit. None: no such condition."""
    improves_by: float | None = None
    """Improvement on the baseline that must be exceeded, in the figure's unit or, with `relative`, as a share of the
    baseline's figure; 0 for any improvement. None: no such condition."""
    not_worse_than: float | None = None
    """Worsening from the baseline that must not be exceeded, in the figure's unit or, with `relative`, as a share of
    the baseline's figure. None: no such condition."""
    relative: bool = False
    """Unit of `improves_by` and `not_worse_than`: true for a share of the baseline's figure, 0.2 being 20 %; false for
    the figure's own."""
    decide_by: DecideBy | None = None
    """`interval` or `point`. None: the gate's `decide_by`."""

    def __post_init__(self) -> None:
        parts = self.figure.split("/", 2)
        if len(parts) < 2 or not all(parts):
            raise InputError(f"gate: figure={self.figure!r}: write SUITE/METRIC or SUITE/METRIC/SLICE")
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            has = "has no threshold" if not kinds else f"has {' and '.join(kinds)}"
            raise InputError(
                f"gate: the condition on {self.figure} {has}: set exactly one of {', '.join(KINDS)}, and write a "
                "second condition for a second threshold"
            )
        if not math.isfinite(self.threshold):
            raise InputError(f"gate: {self.kind}={self.threshold} of {self.figure}: give a finite number")
        if self.needs_baseline and self.threshold < 0:
            raise InputError(
                f"gate: {self.kind}={self.threshold:g} of {self.figure}: give 0 or more; not_worse_than allows a "
                "worsening by this margin"
            )
        if self.relative and not self.needs_baseline:
            raise InputError(
                f"gate: relative=true with {self.kind} of {self.figure}: only improves_by and not_worse_than are "
                "relative to a baseline; leave it out"
            )

    @property
    def kind(self) -> str:
        """Name of the threshold that is set."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def threshold(self) -> float:
        """Value of the threshold that is set."""
        return float(getattr(self, self.kind))

    @property
    def needs_baseline(self) -> bool:
        """True if the condition compares with a baseline."""
        return self.kind in ("improves_by", "not_worse_than")


KINDS = ("at_least", "at_most", "improves_by", "not_worse_than")
"""Thresholds of a condition."""


@dataclass(kw_only=True, slots=True)
class GateConfig:
    """Conditions that a model has to satisfy."""

    conditions: list[ConditionConfig] = field(default_factory=list)
    """Conditions, all of which must pass. Empty: there is no gate."""
    decide_by: DecideBy = DecideBy.interval
    """Part of the estimates that decides conditions which do not say: `interval` or `point`."""
