"""The start of a candidate: its engines start, and its release has not begun."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from rlhf.types import RunError
from serve.store.records import Variant


@dataclass(slots=True)
class CandidateStart:
    """Threads may share it."""

    name: str
    folder: str
    since: float = field(default_factory=time.time)
    """Unix seconds."""
    host: Variant | None = None
    """The model whose engines start; None until the candidate's files are checked."""
    cancelled_by: str | None = None
    """The operator who cancelled it."""
    begun: bool = False
    """True once its release is being saved: a rollback then belongs to the release, and waits for it."""

    def cancel(self, by: str) -> None:
        self.cancelled_by = by

    def check(self) -> None:
        """Raise RunError once it is cancelled."""
        if self.cancelled_by is not None:
            raise RunError(f"the start of {self.name} was cancelled by {self.cancelled_by}'s rollback")

    def describe(self) -> dict[str, Any]:
        """Return the fields that the status shows."""
        return {
            "name": self.name,
            "folder": self.folder,
            "since": self.since,
            "seconds": round(time.time() - self.since, 1),
            "cancelled_by": self.cancelled_by,
        }

    def __str__(self) -> str:
        begun = f"candidate {self.name} has been starting for {time.time() - self.since:.0f} s"
        return begun if self.cancelled_by is None else f"{begun} and is being cancelled"
