"""A sweep: runs that differ in some overrides, each in a folder of its own below the sweep's. Knows no Ray."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from rlhf.train.disk import root_of
from rlhf.train.run_folder import CONFIG, held, replace_file
from rlhf.types import InputError, Stopped

SWEEP = "sweep.json"


@dataclass(kw_only=True, slots=True)
class SweepConfig:
    """How `launch/sweep.py` runs the members of a sweep."""

    address: str | None = None
    """The cluster's dashboard, `http://host:8265`. None takes RAY_API_SERVER_ADDRESS or RAY_ADDRESS."""
    max_concurrent: int = 1
    """Members that are in the cluster at once; one that finds no free accelerators there waits
    `placement.timeout_s` and fails."""
    poll_s: float = 5.0
    """Seconds between two looks at the jobs."""

    def __post_init__(self) -> None:
        if self.max_concurrent < 1 or self.poll_s <= 0:
            raise InputError(
                f"sweep.max_concurrent={self.max_concurrent}, sweep.poll_s={self.poll_s}: both must be positive"
            )


@dataclass(kw_only=True, slots=True)
class SweepRunConfig:
    """What `launch/sweep.py` takes beside the keys of its members."""

    sweep: SweepConfig = field(default_factory=SweepConfig)
    """How the members are run."""


class State(StrEnum):
    """Where a member stands. A failed one is tried again when the sweep is continued."""

    waiting = "waiting"
    running = "running"
    done = "done"
    failed = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One run of a sweep."""

    name: str
    """Of its folder: the swept overrides."""
    swept: Mapping[str, str]
    """Its values of the keys that the sweep varies."""
    overrides: tuple[str, ...]
    """All its overrides, as the command line takes them."""
    state: State = State.waiting
    error: str | None = None
    """Why it failed."""
    submission_id: str | None = None
    """Of its newest Ray job, where it runs as one."""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """What came of it, once the sweep has been concluded."""


class Sweep:
    """The folder of a sweep and what is known of its members, in `sweep.json` at every moment."""

    def __init__(self, root: Path, members: Sequence[Member]) -> None:
        self.root = root
        self._members = {member.name: member for member in members}

    @property
    def members(self) -> list[Member]:
        return list(self._members.values())

    def having(self, state: State) -> list[Member]:
        return [member for member in self.members if member.state is state]

    def folder(self, member: Member) -> Path:
        return self.root / member.name

    def record(self, member: Member, **changes: Any) -> None:
        self._members[member.name] = replace(member, **changes)
        self.write()

    def write(self) -> None:
        replace_file(self.root / SWEEP, json.dumps({"members": [asdict(member) for member in self.members]}, indent=1))


def read_sweep(root: Path) -> Sweep:
    """The sweep that a folder holds. Raises InputError where its record is not one of this version."""
    file = root / SWEEP
    try:
        members = json.loads(file.read_text(encoding="utf-8"))["members"]
        return Sweep(root, [Member(**restored(member)) for member in members])
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{file}: it is not the record of a sweep; name a new or empty folder") from None


def restored(member: dict[str, Any]) -> dict[str, Any]:
    return {**member, "overrides": tuple(member["overrides"]), "state": State(member["state"])}


@contextmanager
def open_sweep(path: str, members: Sequence[Member]) -> Iterator[Sweep]:
    """The sweep's folder, held by this process alone until the block ends; Ray jobs of before keep their ids.

    Raises InputError where another process holds it, or it is the folder of a single run.
    """
    root = root_of_sweep(path)
    with held(root, path):
        before = {member.name: member for member in read_sweep(root).members} if (root / SWEEP).is_file() else {}
        sweep = Sweep(
            root,
            [
                replace(member, submission_id=before[member.name].submission_id) if member.name in before else member
                for member in members
            ],
        )
        sweep.write()
        yield sweep


def root_of_sweep(path: str) -> Path:
    """The folder that `output` names. Raises InputError where it is that of a single run."""
    root = root_of(path)
    if (root / CONFIG).exists():
        raise InputError(f"output={path}: it holds a single run; name another folder for the sweep")
    return root


class Jobs(Protocol):
    """A cluster that runs members."""

    def submit(self, submission_id: str, overrides: Sequence[str]) -> None: ...

    def ending(self, submission_id: str) -> str | None:
        """How a job ended, in a sentence; None while it waits or runs. One that is not known has ended."""


@dataclass(slots=True, kw_only=True)
class Scheduler:
    """Takes the members of a sweep through a cluster, at most `max_concurrent` at once."""

    sweep: Sweep
    jobs: Jobs
    max_concurrent: int
    is_finished: Callable[[Member], bool]
    """Whether a member's folder holds its final model."""
    tell: Callable[[Member], None]
    """Called with each member whose state has changed."""

    def run(self, wait: Callable[[], None]) -> None:
        """Until every member is done or has failed. Interrupted, it says what runs on; the jobs are left alone."""
        try:
            self.adopt()
            while self.advance():
                wait()
        except KeyboardInterrupt:
            raise Stopped(signal.SIGINT, self.interrupted()) from None

    def adopt(self) -> None:
        """Recognise what an earlier call of the same sweep has done, and what still runs of it."""
        for member in self.sweep.members:
            if member.submission_id is not None and self.jobs.ending(member.submission_id) is None:
                self.set(member, state=State.running)
            elif self.is_finished(member):
                self.set(member, state=State.done)

    def advance(self) -> bool:
        """See who has ended and fill the free places; False once nothing runs and nothing waits."""
        for member in self.sweep.having(State.running):
            assert member.submission_id is not None
            ending = self.jobs.ending(member.submission_id)
            if ending is not None and self.is_finished(member):
                self.set(member, state=State.done)
            elif ending is not None:
                self.set(member, state=State.failed, error=ending)
        num_free = max(self.max_concurrent - len(self.sweep.having(State.running)), 0)
        for member in self.sweep.having(State.waiting)[:num_free]:
            # On disk before the cluster has it: whenever this process dies, the job is found again.
            submission_id = f"{member.name}-{secrets.token_hex(4)}"
            self.sweep.record(member, state=State.running, submission_id=submission_id)
            self.jobs.submit(submission_id, member.overrides)
            self.tell(replace(member, state=State.running, submission_id=submission_id))
        return bool(self.sweep.having(State.running))

    def set(self, member: Member, **changes: Any) -> None:
        self.sweep.record(member, **changes)
        self.tell(replace(member, **changes))

    def interrupted(self) -> str:
        """What an interruption leaves. The cluster is asked: the last submission may not have reached it."""
        ids = [str(member.submission_id) for member in self.sweep.having(State.running)]
        running = [submission_id for submission_id in ids if self.jobs.ending(submission_id) is None]
        left = f"{len(running)} jobs run on in the cluster" if running else "no job runs"
        stop = f"; `ray job stop ID` ends one of {', '.join(running)}" if running else ""
        num_waiting = len(self.sweep.having(State.waiting))
        return f"{left}, {num_waiting} members wait; the same command continues the sweep{stop}"
