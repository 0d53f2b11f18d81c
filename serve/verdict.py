"""What a step of a release asks, and what was decided about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """What follows from what a step has seen."""

    promote = "promote"
    """The step is passed."""
    hold = "hold"
    """Not yet."""
    roll_back = "roll_back"
    """The candidate is withdrawn."""
    inconclusive = "inconclusive"
    """It will not be decided by waiting; a person has to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One step of a release."""

    name: str
    """`r7/shadow`, `r7/canary-25`."""
    candidate: str
    predecessor: str
    weight: float
    """Share of users that see the candidate. 0: it answers in the shadow only."""
    last: bool
    """Whether production is what comes next."""
    since: float
    """Unix seconds at which the step began."""
    salt: str
    """What users' arms are drawn with: each step has its own, so that they are drawn afresh in each."""

    @property
    def shadow(self) -> bool:
        return self.weight == 0

    @property
    def weights(self) -> dict[str, float]:
        return {self.predecessor: 1 - self.weight, self.candidate: self.weight}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An outcome and why."""

    outcome: Outcome
    reasons: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """All figures behind it, as JSON, in the metrics' own units."""
