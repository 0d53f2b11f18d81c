"""Exports and the requests behind their rows, so that withdrawals reach them too."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Select, delete, insert, select, update

from rlhf.types import RunError
from serve.store.database import Database, pages
from serve.store.requests import Requests
from serve.store.settings import Settings
from serve.store.tables import EXPORTED, EXPORTS, REQUESTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A folder of rows that was written."""

    id: str
    host: str
    """The machine that wrote it."""
    folder: str
    """Absolute, on that machine."""
    manifest: str | None
    """sha256 of its manifest. None: its writer ended before it was complete."""
    at: float
    """Unix seconds at which it was written."""
    problem: str | None = None
    """Reason why rows of users who withdrew could not be taken out the last time; None if they could."""


@dataclass(frozen=True, slots=True)
class Exports:
    """Exports and the requests behind their rows."""

    database: Database
    settings: Settings
    requests: Requests

    def add(self, export: Export, users: Mapping[str, str]) -> None:
        """Note an export that is about to be complete, with the user of every request behind its rows.

        Raises RunError if one of these users has withdrawn since the rows were read.
        """
        names = {user: self.settings.pseudonym(user) for user in set(users.values())}
        with self.database.writer.begin() as connection:
            connection.execute(insert(EXPORTS).values(asdict(export)))
            rows = [{"export_id": export.id, "request_id": id, "user": names[user]} for id, user in users.items()]
            connection.execute(insert(EXPORTED), rows)
        # Only now: who withdraws from here on finds it noted.
        if self.requests.readable(users).keys() < users.keys():
            self.remove(export.id)
            raise RunError(f"{export.folder}: a user whose rows it holds withdrew while it was written; export again")

    def update(self, export: Export) -> None:
        """Change all of it but its id."""
        with self.database.writer.begin() as connection:
            connection.execute(update(EXPORTS).where(EXPORTS.c.id == export.id).values(asdict(export)))

    def remove(self, id: str) -> None:
        with self.database.writer.begin() as connection:
            connection.execute(delete(EXPORTED).where(EXPORTED.c.export_id == id))
            connection.execute(delete(EXPORTS).where(EXPORTS.c.id == id))

    def set_requests(self, id: str, request_ids: Collection[str]) -> None:
        """Note that of its requests the export has rows of these alone."""
        with self.database.writer.begin() as connection:
            noted = set(connection.execute(select(EXPORTED.c.request_id).where(EXPORTED.c.export_id == id)).scalars())
            for page in pages(noted.difference(request_ids)):
                gone = delete(EXPORTED).where(EXPORTED.c.export_id == id, EXPORTED.c.request_id.in_(page))
                connection.execute(gone)

    def all(self) -> list[Export]:
        """The oldest first."""
        with self.database.engine.connect() as connection:
            rows = connection.execute(select(EXPORTS).order_by(EXPORTS.c.at, EXPORTS.c.id))
            return [Export(**row) for row in rows.mappings()]

    def of(self, user: str) -> list[Export]:
        """Exports that hold rows of the user, who may be deleted by now; the oldest first."""
        held = select(EXPORTED.c.export_id).where(EXPORTED.c.user == self.settings.pseudonym(user))
        ids = self._ids(held)
        return [export for export in self.all() if export.id in ids]

    def to_forget(self) -> list[Export]:
        """Exports that hold rows of requests that were deleted, or whose users withdrew consent; the oldest first."""
        readable = select(REQUESTS.c.id).where(REQUESTS.c.id == EXPORTED.c.request_id, REQUESTS.c.messages.is_not(None))
        ids = self._ids(select(EXPORTED.c.export_id).where(~readable.exists()))
        return [export for export in self.all() if export.id in ids]

    def _ids(self, found: Select[Any]) -> set[str]:
        with self.database.engine.connect() as connection:
            return set(connection.execute(found.distinct()).scalars())
