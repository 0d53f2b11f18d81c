"""Verdicts on a step of a release: an outcome and its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.store.release_records import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An outcome and its reasons."""

    outcome: Outcome
    reasons: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """All figures of the verdict, as JSON values in the metrics' own units."""
