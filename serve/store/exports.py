"""Exports and the requests behind their rows, so that withdrawals reach them too."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, insert, select, true, update

from rlhf.types import RunError
from serve.store.ledger import Ledger
from serve.store.tables import EXPORTED, EXPORTS, REQUESTS

PAGE = 1000
"""Requests looked up at once."""


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


class Exports(Ledger):
    """Exports and the requests behind their rows."""

    def add_export(self, export: Export, users: Mapping[str, str]) -> None:
        """Note an export that is about to be complete, with the user of every request behind its rows.

        Raises RunError where one of these users has withdrawn since the rows were read.
        """
        names = {user: self.pseudonym(user) for user in set(users.values())}
        with self.writer.begin() as connection:
            connection.execute(insert(EXPORTS).values(asdict(export)))
            rows = [{"export_id": export.id, "request_id": id, "user": names[user]} for id, user in users.items()]
            connection.execute(insert(EXPORTED), rows)
        # Only now: who withdraws from here on finds it noted.
        if self.readable(users).keys() < users.keys():
            self.remove_export(export.id)
            raise RunError(f"{export.folder}: a user whose rows it holds withdrew while it was written; export again")

    def set_export(self, export: Export) -> None:
        """Change all of it but its id."""
        with self.writer.begin() as connection:
            connection.execute(update(EXPORTS).where(EXPORTS.c.id == export.id).values(asdict(export)))

    def remove_export(self, id: str) -> None:
        with self.writer.begin() as connection:
            connection.execute(delete(EXPORTED).where(EXPORTED.c.export_id == id))
            connection.execute(delete(EXPORTS).where(EXPORTS.c.id == id))

    def set_exported(self, id: str, request_ids: Collection[str]) -> None:
        """Note that of its requests the export has rows of these alone."""
        with self.writer.begin() as connection:
            noted = set(connection.execute(select(EXPORTED.c.request_id).where(EXPORTED.c.export_id == id)).scalars())
            for page in _pages(noted.difference(request_ids)):
                gone = delete(EXPORTED).where(EXPORTED.c.export_id == id, EXPORTED.c.request_id.in_(page))
                connection.execute(gone)

    def exports(self) -> list[Export]:
        """The oldest first."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(EXPORTS).order_by(EXPORTS.c.at, EXPORTS.c.id))
            return [Export(**row) for row in rows.mappings()]

    def exports_of(self, user: str) -> list[Export]:
        """Exports that hold rows of the user, who may be deleted by now; the oldest first."""
        held = select(EXPORTED.c.export_id).where(EXPORTED.c.user == self.pseudonym(user))
        ids = self._ids(held)
        return [export for export in self.exports() if export.id in ids]

    def exports_to_forget(self) -> list[Export]:
        """Exports that hold rows of requests that were deleted, or whose users withdrew consent; the oldest first."""
        readable = select(REQUESTS.c.id).where(REQUESTS.c.id == EXPORTED.c.request_id, REQUESTS.c.messages.is_not(None))
        ids = self._ids(select(EXPORTED.c.export_id).where(~readable.exists()))
        return [export for export in self.exports() if export.id in ids]

    def readable(self, request_ids: Collection[str]) -> dict[str, str]:
        """Users of those requests, by id, that are still there with their text."""
        return self._users(request_ids, REQUESTS.c.messages.is_not(None))

    def present(self, request_ids: Collection[str]) -> dict[str, str]:
        """Users of those requests, by id, that are still there, with or without text."""
        return self._users(request_ids, true())

    def _users(self, request_ids: Collection[str], condition: ColumnElement[bool]) -> dict[str, str]:
        found: dict[str, str] = {}
        with self.engine.connect() as connection:
            for page in _pages(request_ids):
                asked = select(REQUESTS.c.id, REQUESTS.c.user).where(REQUESTS.c.id.in_(page), condition)
                found |= {id: user for id, user in connection.execute(asked)}
        return found

    def _ids(self, found: Select[Any]) -> set[str]:
        with self.engine.connect() as connection:
            return set(connection.execute(found.distinct()).scalars())


def _pages(ids: Collection[str]) -> Iterator[list[str]]:
    listed = list(ids)
    return (listed[start : start + PAGE] for start in range(0, len(listed), PAGE))
