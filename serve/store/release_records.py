"""Records of releases: a candidate's way, its transitions, and the experiment that each step is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Phase(StrEnum):
    """Phase of a release."""

    shadow = "shadow"
    """The candidate answers where nobody sees it."""
    canary = "canary"
    """Some users see it."""
    paused = "paused"
    """The split stays as it is until a person decides, or a guardrail does."""
    promoted = "promoted"
    """The candidate is production."""
    rolled_back = "rolled_back"
    """The predecessor is production, for good: a new attempt is a new release."""


UNDER_WAY = (Phase.shadow, Phase.canary, Phase.paused)


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


class Watch(StrEnum):
    """The comparison of a promoted candidate with its predecessor, which some users keep meanwhile."""

    none = "none"
    """Not started, or ended."""
    running = "running"
    """No alarm so far."""
    alarm = "alarm"
    """A guardrail is breached, or the goal is worse: a person decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One step of a release."""

    name: str
    """Name of release and step: `r7/shadow`, `r7/canary-25`."""
    candidate: str
    predecessor: str
    weight: float
    """Share of users that see the candidate. 0: the candidate answers in the shadow only."""
    last: bool
    """True for the last step before promotion."""
    since: float
    """Unix seconds at which the step began."""
    salt: str
    """Salt of the users' draws, different for each step, so that draws of different steps are independent."""

    @property
    def shadow(self) -> bool:
        return self.weight == 0

    @property
    def weights(self) -> dict[str, float]:
        return {self.predecessor: 1 - self.weight, self.candidate: self.weight}


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A candidate's release. Every transition returns a new object."""

    id: str
    """`r7`, from `Releases.new_id`."""
    candidate: str
    predecessor: str
    plan: tuple[float, ...]
    """Share of users that see the candidate, step by step; 0 is the shadow step. Fixed when the release starts."""
    phase: Phase
    step: int
    """Index in `plan` of the current or last step."""
    salt: str
    """Random salt, so that a user's arm cannot be predicted."""
    started: float
    """Unix seconds."""
    since: float
    """Unix seconds at which the step began, or the release ended."""
    watch_s: float = 0.0
    """Seconds of the watch after a promotion; 0: no watch. Fixed when the release starts, as `holdback` is."""
    holdback: float = 0.0
    """Share of users who keep the predecessor during the watch."""
    watch: Watch = Watch.none
    warm: bool = True
    """True if the unused arm keeps its engines after the end; False once a new candidate needed their resources."""
    reason: str = ""
    """Reason of the last transition."""
    version: int = 0
    """Times that it has been saved when it was read; 0: never. Saving compares it."""

    def __post_init__(self) -> None:
        assert self.candidate != self.predecessor
        assert all(low < high for low, high in itertools.pairwise((*self.plan, 1.0))), self.plan
        assert min(self.plan, default=-1) >= 0, self.plan
        assert 0 <= self.step < len(self.plan)
        assert self.phase not in (Phase.shadow, Phase.canary) or self.phase is phase_of(self.plan[self.step])
        assert self.phase is Phase.promoted or self.watch is Watch.none

    @property
    def state(self) -> str:
        """`shadow`, `canary-25`, `paused`, `watched`, `alarm`, `promoted` or `rolled_back`."""
        if self.watch is not Watch.none:
            return "watched" if self.watch is Watch.running else self.watch
        return step_name(self.plan[self.step]) if self.phase is Phase.canary else self.phase

    @property
    def experiment(self) -> Experiment | None:
        """Return the current step, including a paused one and the watch; None after the end."""
        if self.watch is not Watch.none:
            name, weight, last = "watch", 1 - self.holdback, False
        elif self.phase in UNDER_WAY:
            weight = self.plan[self.step]
            name, last = step_name(weight), self.step == len(self.plan) - 1
        else:
            return None
        return Experiment(
            name=f"{self.id}/{name}",
            candidate=self.candidate,
            predecessor=self.predecessor,
            weight=weight,
            last=last,
            since=self.since,
            salt=f"{self.salt}/{name}",
        )

    @property
    def weights(self) -> dict[str, float]:
        """Return the share of users by variant; sums to 1."""
        if self.experiment:
            return self.experiment.weights
        promoted = self.phase is Phase.promoted
        return {self.predecessor: float(not promoted), self.candidate: float(promoted)}

    @property
    def production(self) -> str:
        """The variant that answers users outside of the experiment."""
        return self.candidate if self.phase is Phase.promoted else self.predecessor

    def to_json(self) -> dict[str, Any]:
        """Return all fields but `version`, which is the store's."""
        fields = {name: value for name, value in asdict(self).items() if name != "version"}
        return {**fields, "plan": list(self.plan)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], version: int = 0) -> Release:
        # Releases from before salts were recorded drew arms with their id.
        changes = {
            "salt": fields.get("salt", fields["id"]),
            "plan": tuple(fields["plan"]),
            "phase": Phase(fields["phase"]),
            "watch": Watch(fields.get("watch", Watch.none)),
        }
        return cls(**{**fields, **changes, "version": version})


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One entry of the audit trail."""

    release: str
    at: float
    """Unix seconds."""
    before: str
    """State before the transition, such as `canary-25`; empty at the start."""
    after: str
    outcome: Outcome
    by: str
    """`controller`, or the operator's name."""
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """All figures behind it, as JSON."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def phase_of(weight: float) -> Phase:
    return Phase.canary if weight else Phase.shadow


def step_name(weight: float) -> str:
    return f"canary-{100 * weight:g}" if weight else "shadow"
