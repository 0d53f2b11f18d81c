"""Scheduling of a sweep's members in a cluster, a few at once. Without Ray."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from rlhf.sweeps.record import Member, State, Sweep
from rlhf.types import Stopped


class Jobs(Protocol):
    """A cluster that runs members."""

    def submit(self, submission_id: str, overrides: Sequence[str]) -> None: ...

    def ending(self, submission_id: str) -> str | None:
        """Return a sentence on how a job ended; None while it waits or runs. An unknown job counts as ended."""

    def stop(self, submission_id: str) -> None:
        """Ask a job to end, as Ctrl-C would."""


class Source(Protocol):
    """Origin of members beyond those that are listed at the start."""

    def next(self, sweep: Sweep) -> Member | None:
        """Return one more member; None if there is none."""

    def is_hopeless(self, sweep: Sweep, member: Member) -> bool:
        """Return whether a running member is to end now."""


class Listed:
    """A sweep whose members are all listed at the start."""

    def next(self, sweep: Sweep) -> Member | None:
        return None

    def is_hopeless(self, sweep: Sweep, member: Member) -> bool:
        return False


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
    source: Source = field(default_factory=Listed)
    """Origin of further members, and of the decision to end one early."""
    stopping: list[Member] = field(default_factory=list)
    """Pruned members whose jobs have not ended yet."""

    def run(self, wait: Callable[[], None]) -> None:
        """Run until every member has ended. An interruption does not stop the jobs, and its message lists
        the ones still running."""
        try:
            self.adopt()
            while self.advance():
                wait()
        except KeyboardInterrupt:
            raise Stopped(signal.SIGINT, self.describe_interruption()) from None

    def adopt(self) -> None:
        """Recognise the finished and the running members of an earlier call of the same sweep."""
        for member in (*self.sweep.having(State.waiting), *self.sweep.having(State.pruned)):
            if member.submission_id is not None and self.jobs.ending(member.submission_id) is None:
                if member.state is State.pruned:
                    self.stop(member)
                else:
                    self.set(member, state=State.running)
            elif self.is_finished(member):
                self.set(member, state=State.done)

    def advance(self) -> bool:
        """Record ended members, end hopeless ones and submit waiting ones; return False once no member runs or
        waits."""
        for member in self.sweep.having(State.running):
            self.follow(member)
        self.stopping = [member for member in self.stopping if self.jobs.ending(str(member.submission_id)) is None]
        while self.num_busy() < self.max_concurrent and (chosen := self.next_member()) is not None:
            self.submit(chosen)
        return self.num_busy() > 0

    def follow(self, member: Member) -> None:
        """Record how a running member ended, or end it if it is hopeless."""
        assert member.submission_id is not None
        ending = self.jobs.ending(member.submission_id)
        if ending is not None and self.is_finished(member):
            self.set(member, state=State.done)
        elif ending is not None:
            self.set(member, state=State.failed, error=ending)
        elif self.source.is_hopeless(self.sweep, member):
            # Written to disk before the job ends, so that it never counts as failed.
            self.set(member, state=State.pruned)
            self.stop(member)

    def num_busy(self) -> int:
        return len(self.sweep.having(State.running)) + len(self.stopping)

    def next_member(self) -> Member | None:
        """Return the first waiting member, else one more from the source, which may have failed already."""
        while not (waiting := self.sweep.having(State.waiting)):
            member = self.source.next(self.sweep)
            if member is None:
                return None
            self.sweep.record(member)
            if member.state is State.failed:
                self.tell(member)
        return waiting[0]

    def submit(self, member: Member) -> None:
        # Written to disk before the submission, so that the job is found again whenever this process dies.
        submission_id = f"{member.name}-{secrets.token_hex(4)}"
        self.sweep.record(member, state=State.running, submission_id=submission_id)
        self.jobs.submit(submission_id, member.overrides)
        self.tell(replace(member, state=State.running, submission_id=submission_id))

    def stop(self, member: Member) -> None:
        self.jobs.stop(str(member.submission_id))
        self.stopping.append(member)

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
