"""Scheduling of a sweep's members in a cluster, a few at once. Without Ray."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rlhf.sweeps.record import Member, State, Sweep
from rlhf.types import Stopped


class Jobs(Protocol):
    """A cluster that runs members."""

    def submit(self, submission_id: str, overrides: Sequence[str]) -> None: ...

    def ending(self, submission_id: str) -> str | None:
        """Return a sentence on how a job ended; None while it waits or runs. An unknown job counts as ended."""


@dataclass(slots=True, kw_only=True)
class Scheduler:
    """Run the members of a sweep in a cluster, at most `max_concurrent` at once."""

    sweep: Sweep
    jobs: Jobs
    max_concurrent: int
    is_finished: Callable[[Member], bool]
    """Return whether a member's folder holds its final model."""
    tell: Callable[[Member], None]
    """Called with each member whose state has changed."""

    def run(self, wait: Callable[[], None]) -> None:
        """Run until every member is done or has failed. An interruption does not stop the jobs, and its message lists
        the ones still running."""
        try:
            self.adopt()
            while self.advance():
                wait()
        except KeyboardInterrupt:
            raise Stopped(signal.SIGINT, self.describe_interruption()) from None

    def adopt(self) -> None:
        """Recognise the finished and the running members of an earlier call of the same sweep."""
        for member in self.sweep.members:
            if member.submission_id is not None and self.jobs.ending(member.submission_id) is None:
                self.set(member, state=State.running)
            elif self.is_finished(member):
                self.set(member, state=State.done)

    def advance(self) -> bool:
        """Record ended members and submit waiting ones; return False once no member runs or waits."""
        for member in self.sweep.having(State.running):
            assert member.submission_id is not None
            ending = self.jobs.ending(member.submission_id)
            if ending is not None and self.is_finished(member):
                self.set(member, state=State.done)
            elif ending is not None:
                self.set(member, state=State.failed, error=ending)
        num_free = max(self.max_concurrent - len(self.sweep.having(State.running)), 0)
        for member in self.sweep.having(State.waiting)[:num_free]:
            # Written to disk before the submission, so that the job is found again whenever this process dies.
            submission_id = f"{member.name}-{secrets.token_hex(4)}"
            self.sweep.record(member, state=State.running, submission_id=submission_id)
            self.jobs.submit(submission_id, member.overrides)
            self.tell(replace(member, state=State.running, submission_id=submission_id))
        return bool(self.sweep.having(State.running))

    def set(self, member: Member, **changes: Any) -> None:
        self.sweep.record(member, **changes)
        self.tell(replace(member, **changes))

    def describe_interruption(self) -> str:
        """Return a sentence on the state after an interruption. Queries the cluster, since the last submission may not
        have reached it."""
        ids = [str(member.submission_id) for member in self.sweep.having(State.running)]
        running = [submission_id for submission_id in ids if self.jobs.ending(submission_id) is None]
        left = f"{len(running)} jobs keep running in the cluster" if running else "no job runs"
        stop = f"; `ray job stop ID` ends one of {', '.join(running)}" if running else ""
        num_waiting = len(self.sweep.having(State.waiting))
        return f"{left}, {num_waiting} members wait; the same command continues the sweep{stop}"
