"""Releases as the store has them: what the controller does at every look, and what operators may do. Knows no Ray."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rlhf.types import InputError, RunError
from serve.config import ServeConfig
from serve.control.registry import file_problem, is_adapter, register, summary
from serve.releases import state
from serve.releases.looks import Looks
from serve.releases.verdict import Verdict
from serve.store.records import Variant
from serve.store.release_records import UNDER_WAY, Outcome, Phase, Release, Transition, Watch
from serve.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A release under way and the verdict on it; it may have changed since."""

    release: Release
    at: float
    """Unix seconds."""
    verdict: Verdict
    unverified: str | None
    """Problem with the files that a rollback would return to, if the verdict promotes."""


@dataclass(slots=True)
class ReleaseManager:
    """Every change is one transaction, with its transition; of two processes that decide at once one is refused."""

    store: Store
    config: ServeConfig
    clock: Callable[[], float]
    """Unix seconds."""
    verdict: Verdict | None = None
    """Verdict of the last look."""
    looks: Looks = field(init=False)

    def __post_init__(self) -> None:
        self.looks = Looks(self.store.database, self.config.release, timeout_s=self.config.limits.timeout_s)

    def bootstrap(self) -> None:
        """Register the configured models; the first call of all says what is in production."""
        if not self.config.models:
            raise InputError("models={}: there is nothing to serve; name a folder, as in +models.one=FOLDER")
        # An adapter is registered after the model that holds it.
        for name in sorted(self.config.models, key=lambda name: is_adapter(self.config.models[name])):
            self.register(name, self.config.models[name])
        if self.store.releases.production() is None:
            name = self.config.production
            if name not in self.config.models:
                known = ", ".join(self.config.models)
                raise InputError(f"production={name}: it is none of models ({known}); name one of them")
            self.store.releases.set_production(name, self.clock())

    def register(self, name: str, folder: str) -> Variant:
        if name == self.config.name:
            raise InputError(f"models.{name}: that is what users ask for (`name`); give this model another name")
        variant = register(name, folder, self.store.variants.all(), self.clock())
        self.store.variants.add(variant)
        return variant

    def look(self) -> Transition | None:
        """Judge the release under way and do what follows."""
        return self.act(self.judge())

    def judge(self) -> Judgement | None:
        """Judge the release under way, which changes nothing; None if there is none. One caller at a time."""
        release = self.latest()
        if release is None or release.experiment is None:
            return None
        now = self.clock()
        verdict = self.looks.look(release.experiment, now)
        unverified = self.unverified(release) if state.would_promote(release, verdict) else None
        return Judgement(release=release, at=now, verdict=verdict, unverified=unverified)

    def act(self, judgement: Judgement | None) -> Transition | None:
        """Do what follows from a verdict, unless the release has changed since."""
        release = self.latest()
        if release is None or judgement is None or release != judgement.release:
            return None
        self.verdict = judgement.verdict
        after, transition = state.advance(release, judgement.verdict, now=judgement.at, unverified=judgement.unverified)
        if transition is not None:
            self.store.releases.save(after, transition)
        return transition

    def check_start(self, name: str, folder: str) -> Variant:
        """Register a candidate whose release could start now. InputError if it could not."""
        release = self.latest()
        if release is not None and release.phase in UNDER_WAY:
            raise InputError(f"release {release.id} of {release.candidate} is under way; promote it or roll it back")
        state.start("r0", name, str(self.store.releases.production()), self.config.release, self.clock(), salt="")
        return self.register(name, folder)

    def start(self, name: str, by: str, reason: str) -> None:
        """Begin the first step of a registered candidate; a watch of the release before ends."""
        id, before = self.store.releases.new_id(), self.latest()
        if before is not None and before.watch is not Watch.none:
            ended = state.promote(before, by=by, reason=f"release {id} begins", now=self.clock(), unverified=None)
            self.store.releases.save(*ended)
        production, salt = str(self.store.releases.production()), secrets.token_hex(16)
        release = state.start(id, name, production, self.config.release, self.clock(), salt=salt)
        transition = Transition(
            release=id,
            at=release.started,
            before="",
            after=release.state,
            outcome=Outcome.hold,
            by=by,
            reason=reason or "started",
            evidence={},
        )
        self.verdict = None
        self.store.releases.save(release, transition)

    def promote(self, by: str, reason: str) -> None:
        """Make the candidate production. Raises RunError if the predecessor could not be restored; the release then
        waits in `paused`."""
        release = self.require_release()
        after, transition = state.promote(
            release, by=by, reason=reason or "promoted", now=self.clock(), unverified=self.unverified(release)
        )
        self.store.releases.save(after, transition)
        if after.phase is not Phase.promoted:
            raise RunError(f"release {release.id} is paused: {transition.reason}")

    def roll_back(self, by: str, reason: str) -> None:
        release = self.require_release()
        if release.phase is Phase.promoted and (wrong := self.unverified(release)):
            raise InputError(f"release {release.id} cannot be rolled back, as {release.predecessor} is gone: {wrong}")
        ended = state.roll_back(release, by=by, reason=reason or "rolled back", now=self.clock())
        self.store.releases.save(*ended)

    def status(self) -> dict[str, Any]:
        """Return production, the latest release with its audit trail, and the last look."""
        release = self.latest()
        found: dict[str, Any] = {
            "production": self.store.releases.production(),
            "models": [summary(variant) for variant in self.store.variants.all()],
            "release": None,
        }
        if release is None:
            return found
        transitions = [transition.to_json() for transition in self.store.releases.transitions(release.id)]
        found["release"] = {**release.to_json(), "state": release.state, "transitions": transitions}
        if self.verdict is not None and release.experiment is not None:
            verdict = self.verdict
            found["look"] = {
                "outcome": verdict.outcome,
                "reasons": list(verdict.reasons),
                "evidence": dict(verdict.evidence),
            }
        return found

    def latest(self) -> Release | None:
        return self.store.releases.latest()

    def require_release(self) -> Release:
        release = self.latest()
        if release is None:
            raise InputError("there is no release yet; start one")
        return release

    def unverified(self, release: Release) -> str | None:
        """Return the problem with the files that a rollback would return to; None if they verify."""
        predecessor = self.store.variants.get(release.predecessor)
        return file_problem(predecessor) if predecessor else f"{release.predecessor} is not known"
