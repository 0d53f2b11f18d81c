"""State machine of a release, without side effects: shadow, canary steps, promoted; or paused, or rolled back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rlhf.types import InputError
from serve.releases.config import ReleaseConfig
from serve.releases.verdict import Verdict
from serve.store.release_records import UNDER_WAY, Outcome, Phase, Release, Transition, Watch, phase_of

CONTROLLER = "controller"
"""Author of automatic transitions."""


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


def would_promote(release: Release, verdict: Verdict) -> bool:
    """Return whether `advance` would promote, which needs the rollback target verified."""
    last = release.phase is not Phase.paused and release.experiment is not None and release.experiment.last
    return last and verdict.outcome is Outcome.promote


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
    if would_promote(release, verdict):
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
