"""The report of a training step, and the interface of the callbacks that get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from rlhf.train.metrics import failure_metrics, length_metrics, reward_metrics, set_metrics
from rlhf.train.stats import Stats
from rlhf.types import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleUse:
    """Usage of a role's workers since the last call."""

    busy: float | None
    """Share of the time in which the workers were busy, from 0 to 1; None if unknown."""
    memory_bytes: int
    """Peak memory of one of their accelerators since its start."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Report of a step, for callbacks."""

    step: int
    groups: Sequence[Group]
    rejected: Sequence[Group]
    stats: Stats
    seconds: Mapping[str, float]
    use: Mapping[str, RoleUse]
    notes: Mapping[str, float] = field(default_factory=dict)
    """Metrics noted during the step, by name."""

    @cached_property
    def figures(self) -> dict[str, float]:
        """Return the step's metrics by name: `step`, rewards, lengths, learning, failures, seconds, and each role's use
        of its accelerators; reward, length, repetition, entropy and KL by prompt set, if there are several."""
        infos = [info for group in self.groups for info in group.infos]
        lengths = length_metrics(infos)
        staleness = max((self.step - info.versions[0] for info in infos if info.num_loss_tokens), default=0)
        return {
            "step": self.step,
            **reward_metrics(infos),
            **set_metrics(self.groups, self.rejected),
            **lengths,
            "tokens_per_second": lengths["tokens"] / self.seconds["step"],
            **{f"train/{name}": value for name, value in self.stats.values().items()},
            **failure_metrics([*self.groups, *self.rejected]),
            "staleness_max": float(staleness),
            **{f"seconds/{name}": value for name, value in self.seconds.items()},
            **{f"busy/{role}": use.busy for role, use in self.use.items() if use.busy is not None},
            **{f"memory_bytes/{role}": float(use.memory_bytes) for role, use in self.use.items()},
            **self.notes,
        }


class Callback(Protocol):
    async def on_step(self, report: StepReport) -> bool:
        """Handle the report of a step; return True to end the training."""
