"""Record of a sweep: runs that differ in some overrides, each in a subfolder of the sweep's. Without Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from rlhf.train.disk import root_of
from rlhf.train.run_folder import CONFIG, hold_folder, replace_file
from rlhf.types import InputError

SWEEP = "sweep.json"


class State(StrEnum):
    """State of a member. A failed member runs again when the sweep is continued, a pruned one does not."""

    waiting = "waiting"
    running = "running"
    done = "done"
    failed = "failed"
    pruned = "pruned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One run of a sweep."""

    name: str
    """Name of the member's folder: the swept overrides."""
    swept: Mapping[str, str]
    """The member's values of the keys that the sweep varies."""
    overrides: tuple[str, ...]
    """All its overrides, as the command line takes them."""
    state: State = State.waiting
    error: str | None = None
    """Reason of the failure."""
    submission_id: str | None = None
    """Id of the newest Ray job; None if the member is not a Ray job."""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """Metrics of the member, once the sweep has ended."""


class Sweep:
    """The folder of a sweep and the record of its members; `sweep.json` is always up to date."""

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
    """Read the sweep of a folder. Raises InputError if its record is not of this version."""
    file = root / SWEEP
    try:
        members = json.loads(file.read_text(encoding="utf-8"))["members"]
        return Sweep(root, [Member(**restore_member(member)) for member in members])
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{file}: it is not the record of a sweep; name a new or empty folder") from None


def restore_member(member: dict[str, Any]) -> dict[str, Any]:
    return {**member, "overrides": tuple(member["overrides"]), "state": State(member["state"])}


@contextmanager
def open_sweep(path: str, members: Sequence[Member]) -> Iterator[Sweep]:
    """Open and lock the sweep's folder until the block ends; earlier Ray jobs keep their ids, pruned members their
    state.

    Raises InputError if another process holds the lock, or the folder is that of a single run.
    """
    root = root_of_sweep(path)
    with hold_folder(root, path):
        before = {member.name: member for member in read_sweep(root).members} if (root / SWEEP).is_file() else {}
        sweep = Sweep(root, [continued(member, before.get(member.name)) for member in members])
        sweep.write()
        yield sweep


def continued(member: Member, before: Member | None) -> Member:
    if before is None:
        return member
    state = State.pruned if before.state is State.pruned else member.state
    return replace(member, submission_id=before.submission_id, state=state)


def root_of_sweep(path: str) -> Path:
    """Return the folder that `output` names. Raises InputError if it is that of a single run."""
    root = root_of(path)
    if (root / CONFIG).exists():
        raise InputError(f"output={path}: it holds a single run; name another folder for the sweep")
    return root
