"""State machine of a release, without side effects: shadow, canary steps, promoted; or paused, or rolled back."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from rlhf.types import InputError
from serve.releases.config import ReleaseConfig
from serve.releases.verdict import Outcome, Verdict
from serve.statistics.experiment import Experiment
from serve.store.records import UNDER_WAY, Phase

CONTROLLER = "controller"
"""Author of automatic transitions."""


class Watch(StrEnum):
    """The comparison of a promoted candidate with its predecessor, which some users keep meanwhile."""

    none = "none"
    """Not started, or ended."""
    running = "running"
    """No alarm so far."""
    alarm = "alarm"
    """A guardrail is breached, or the goal is worse: a person decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A candidate's release. Every transition returns a new object."""

    id: str
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

    def would_promote(self, verdict: Verdict) -> bool:
        """Return whether `advance` would promote, which needs the rollback target verified."""
        last = self.phase is not Phase.paused and self.experiment is not None and self.experiment.last
        return last and verdict.outcome is Outcome.promote

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "plan": list(self.plan)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Release:
        # Releases from before salts were recorded drew arms with their id.
        salted = {"salt": fields["id"], **fields}
        watch = Watch(fields.get("watch", Watch.none))
        return cls(**{**salted, "plan": tuple(fields["plan"]), "phase": Phase(fields["phase"]), "watch": watch})


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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def phase_of(weight: float) -> Phase:
    return Phase.canary if weight else Phase.shadow


def step_name(weight: float) -> str:
    return f"canary-{100 * weight:g}" if weight else "shadow"


def start(id: str, candidate: str, predecessor: str, config: ReleaseConfig, now: float, *, salt: str) -> Release:
    """Return a new release in its first step. Raises InputError if the candidate is in production."""
    if candidate == predecessor:
        raise InputError(f"candidate={candidate!r} is in production already; name another model")
    plan = (*((0.0,) if config.shadow_fraction else ()), *config.steps)
    return Release(
        id=id,
        candidate=candidate,
        predecessor=predecessor,
        plan=plan,
        phase=phase_of(plan[0]),
        step=0,
        salt=salt,
        watch_s=config.watch_s,
        holdback=config.holdback,
        started=now,
        since=now,
    )


def advance(
    release: Release, verdict: Verdict, *, now: float, unverified: str | None
) -> tuple[Release, Transition | None]:
    """Apply a verdict to a release; return it with the entry for the audit trail, None if nothing changes.

    `unverified` is the problem of the predecessor's files, which a rollback would need; None if they verify. It is only
    read if `would_promote` is True.
    """
    move = _Move(release, now, verdict.outcome, CONTROLLER, "; ".join(verdict.reasons), verdict.evidence)
    if release.watch is not Watch.none:
        return advance_watch(move, verdict)
    if release.phase not in UNDER_WAY or verdict.outcome is Outcome.hold:
        return release, None
    if verdict.outcome is Outcome.roll_back:
        return move.to(Phase.rolled_back)
    if release.phase is Phase.paused:
        return release, None
    if verdict.outcome is Outcome.inconclusive:
        return move.to(Phase.paused)
    if release.would_promote(verdict):
        return move.promote(unverified)
    return move.to(phase_of(release.plan[release.step + 1]), step=release.step + 1)


def advance_watch(move: _Move, verdict: Verdict) -> tuple[Release, Transition | None]:
    """Apply a verdict to a promoted release: raise an alarm, or end the watch after its time."""
    release = move.release
    if verdict.outcome is Outcome.roll_back and release.watch is Watch.running:
        return move.set_watch(Watch.alarm)
    if release.watch is Watch.running and move.now - release.since >= release.watch_s:
        return replace(move, outcome=Outcome.promote, reason=f"watched for {release.watch_s:g} s").set_watch(Watch.none)
    return release, None


def promote(
    release: Release, *, by: str, reason: str, now: float, unverified: str | None
) -> tuple[Release, Transition]:
    """Promote the candidate from any step, by an operator, or end its watch. Raises InputError after the end."""
    if release.watch is not Watch.none:
        return _Move(release, now, Outcome.promote, by, reason).set_watch(Watch.none)
    if release.phase not in UNDER_WAY:
        raise InputError(f"release {release.id} is {release.phase} and cannot be promoted; start a new one")
    return _Move(release, now, Outcome.promote, by, reason).promote(unverified)


def roll_back(release: Release, *, by: str, reason: str, now: float) -> tuple[Release, Transition]:
    """Withdraw the candidate, promoted or not, by an operator. Raises InputError if it is withdrawn already."""
    if release.phase is Phase.rolled_back:
        raise InputError(f"release {release.id} is rolled_back already: {release.reason}")
    return _Move(release, now, Outcome.roll_back, by, reason).to(Phase.rolled_back)


@dataclass(frozen=True, slots=True)
class _Move:
    """A transition with its author and reason."""

    release: Release
    now: float
    outcome: Outcome
    by: str
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def promote(self, unverified: str | None) -> tuple[Release, Transition]:
        """Promote to production, unless a rollback would be impossible."""
        if unverified is None:
            return self.to(Phase.promoted, watch=Watch.running if self.release.watch_s else Watch.none)
        sentence = f"not promoted, as {self.release.predecessor} could not be returned to: {unverified}"
        return replace(self, reason=sentence, outcome=Outcome.inconclusive).to(Phase.paused)

    def set_watch(self, watch: Watch) -> tuple[Release, Transition]:
        """Change the watch of a promoted release."""
        after, transition = self.to(Phase.promoted, watch=watch)
        return replace(after, since=self.release.since), transition

    def to(self, phase: Phase, step: int | None = None, watch: Watch = Watch.none) -> tuple[Release, Transition]:
        """Change the phase. `since` is kept when a step is paused, so that its data stay."""
        after = replace(
            self.release,
            phase=phase,
            step=self.release.step if step is None else step,
            since=self.release.since if phase is Phase.paused else self.now,
            watch=watch,
            reason=self.reason,
        )
        return after, Transition(
            release=after.id,
            at=self.now,
            before=self.release.state,
            after=after.state,
            outcome=self.outcome,
            by=self.by,
            reason=self.reason,
            evidence=self.evidence,
        )
