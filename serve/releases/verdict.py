"""Verdicts on a step of a release: an outcome and its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """Outcome of a look."""

    promote = "promote"
    """The step is passed."""
    hold = "hold"
    """The step continues."""
    roll_back = "roll_back"
    """The candidate is withdrawn."""
    inconclusive = "inconclusive"
    """Further waiting cannot decide; a person has to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An outcome and its reasons."""

    outcome: Outcome
    reasons: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """All figures of the verdict, as JSON values in the metrics' own units."""
