"""Releases, their transitions, and the variant in production."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Integer, Row, Select, cast, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from rlhf.types import InputError, RunError
from serve.store.database import Database, reason
from serve.store.release_records import UNDER_WAY, Outcome, Release, Transition
from serve.store.tables import PRODUCTION, RELEASES, SETTINGS, TRANSITIONS, Text

COUNTER = "last_release"
"""The setting that counts releases; ids name experiments, so that of a deleted release must not come again."""


class StaleRelease(RunError):
    """A release that somebody else has changed since it was read: read it again, and decide again."""


@dataclass(frozen=True, slots=True)
class Releases:
    """One transaction per call."""

    database: Database

    def new_id(self) -> str:
        """Return an id, `r7`, that no other release of this database has had or will have."""
        with self.database.writer.begin() as connection:
            self.database.insert_new(connection, SETTINGS, {"name": COUNTER, "value": "0"})
            count = cast(cast(SETTINGS.c.value, Integer) + 1, Text)
            grow = update(SETTINGS).where(SETTINGS.c.name == COUNTER).values(value=count)
            return f"r{connection.execute(grow.returning(SETTINGS.c.value)).scalar_one()}"

    def save(self, release: Release, transition: Transition | None = None) -> Release:
        """Save a release and, with its transition, what is in production from then on, all or nothing.

        Returns:
            The release as the next call takes it.

        Raises:
            InputError: a new release while another is open.
            StaleRelease: another process has saved it since it was read; nothing of this is kept.
        """
        with self.database.writer.begin() as connection:
            number = _update(connection, release) if release.version else _insert(connection, release)
            if transition is not None:
                _append(connection, number, transition)
                self._set_production(connection, release.production, transition.at)
        return replace(release, version=release.version + 1)

    def latest(self) -> Release | None:
        with self.database.engine.connect() as connection:
            row = connection.execute(_releases().order_by(RELEASES.c.id.desc()).limit(1)).first()
            return _release(row) if row else None

    def all(self) -> list[Release]:
        """The oldest first."""
        with self.database.engine.connect() as connection:
            return [_release(row) for row in connection.execute(_releases().order_by(RELEASES.c.id))]

    def transitions(self, id: str) -> list[Transition]:
        """Return a release's transitions in order."""
        columns = [column for column in TRANSITIONS.c if column.name not in ("release_id", "number")]
        query = select(RELEASES.c.name.label("release"), *columns).join_from(RELEASES, TRANSITIONS)
        of_release = query.where(RELEASES.c.name == id).order_by(TRANSITIONS.c.number)
        with self.database.engine.connect() as connection:
            rows = connection.execute(of_release).mappings()
            return [Transition(**{**row, "outcome": Outcome(row["outcome"])}) for row in rows]

    def production(self) -> str | None:
        """The variant that answers users outside of releases. None: nothing was ever set."""
        with self.database.engine.connect() as connection:
            return connection.execute(select(PRODUCTION.c.name)).scalar()

    def set_production(self, name: str, at: float) -> None:
        with self.database.writer.begin() as connection:
            self._set_production(connection, name, at)

    def _set_production(self, connection: Connection, name: str, at: float) -> None:
        self.database.upsert(connection, PRODUCTION, {"id": 1, "name": name, "at": at})


def _insert(connection: Connection, release: Release) -> int:
    """Insert a new release; return its number in the database."""
    row = {**_row(release), "name": release.id}
    try:
        return int(connection.execute(insert(RELEASES).values(row).returning(RELEASES.c.id)).scalar_one())
    except IntegrityError as error:
        if "open" not in reason(error):
            raise _stale(release) from None
        raise InputError(
            f"a release of '{release.candidate}' cannot start while another is under way: wait for its end, or "
            "roll it back"
        ) from None


def _update(connection: Connection, release: Release) -> int:
    """Overwrite a release unless it has changed; return its number in the database."""
    unchanged = (RELEASES.c.name == release.id) & (RELEASES.c.version == release.version)
    change = update(RELEASES).where(unchanged).values(_row(release)).returning(RELEASES.c.id)
    number = connection.execute(change).scalar()
    if number is None:
        raise _stale(release)
    return int(number)


def _row(release: Release) -> dict[str, Any]:
    return {
        "candidate": release.candidate,
        "predecessor": release.predecessor,
        "phase": release.phase,
        "state": release.to_json(),
        "version": release.version + 1,
        "open": True if release.phase in UNDER_WAY else None,
    }


def _append(connection: Connection, number: int, transition: Transition) -> None:
    """Add a transition to the audit trail of the release with this number."""
    last = select(func.coalesce(func.max(TRANSITIONS.c.number), 0)).where(TRANSITIONS.c.release_id == number)
    entry = {name: value for name, value in transition.to_json().items() if name != "release"}
    place = {"release_id": number, "number": connection.execute(last).scalar_one() + 1}
    connection.execute(insert(TRANSITIONS).values({**entry, **place}))


def _releases() -> Select[Any]:
    return select(RELEASES.c.state, RELEASES.c.version)


def _release(row: Row[Any]) -> Release:
    return Release.from_json(row.state, row.version)


def _stale(release: Release) -> StaleRelease:
    return StaleRelease(f"release {release.id}: another process has changed it meanwhile; read it again")
