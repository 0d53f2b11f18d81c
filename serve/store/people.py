"""Consent of users, its withdrawal, and deletion."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, or_, select, update

from serve.store.consent import NO_TEXT, numeric_parameters
from serve.store.database import Database
from serve.store.settings import Settings
from serve.store.tables import CONSENTS, DELETIONS, EXPOSURES, FEEDBACK, REQUESTS, RESPONSES, storable

CLOCKS_S = 2.0
"""Seconds by which the clocks of two gateways may differ; a user who was deleted is a new one that long after it."""


@dataclass(frozen=True, slots=True)
class UserStatus:
    """Retention of a user's requests, by the time at which they arrived."""

    deleted_at: float
    """-inf: never."""
    consent_since: float
    """inf: there is none."""

    def is_kept(self, at: float) -> bool:
        return at > self.deleted_at + CLOCKS_S

    def is_text_kept(self, at: float) -> bool:
        return at >= self.consent_since


@dataclass(frozen=True, slots=True)
class People:
    """Recording holds a shared lock on `DELETIONS`, withdrawal and deletion an exclusive one, so that no transaction
    adds what another one removes."""

    database: Database
    settings: Settings
    consent_by_default: bool = False
    """Texts of users who were not asked are kept."""
    outcomes: frozenset[str] = frozenset()
    """Names of outcomes that are kept without consent, as metrics read them."""

    def set_consent(self, user: str, given: bool, at: float) -> None:
        """Texts of the user's requests are kept from now on; or none are, those from before included, which
        `Database.erase` then takes out of the files.

        What is under way meanwhile was asked before: its text is not kept.
        """
        with self.database.writer.begin() as connection:
            if not given:
                self.database.lock(connection, DELETIONS, shared=False)
            known = select(CONSENTS.c.given).where(CONSENTS.c.user == user)
            if connection.execute(known).scalar() is not given:
                self.database.upsert(connection, CONSENTS, {"user": user, "given": given, "at": at})
            if given:
                return
            own = select(REQUESTS.c.id).where(_of_user(user))
            said = update(FEEDBACK).where(FEEDBACK.c.request_id.in_(own))
            connection.execute(said.values(text=None))
            connection.execute(said.where(FEEDBACK.c.name.not_in(self.outcomes)).values(name=None))
            connection.execute(update(RESPONSES).where(RESPONSES.c.request_id.in_(own)).values(**NO_TEXT))
            sampling = connection.execute(select(REQUESTS.c.id, REQUESTS.c.sampling).where(_of_user(user))).all()
            connection.execute(update(REQUESTS).where(_of_user(user)).values(messages=None, error=None))
            if words := [
                {"row": id, "kept": numeric_parameters(found)}
                for id, found in sampling
                if numeric_parameters(found) != found
            ]:
                change = update(REQUESTS).where(REQUESTS.c.id == bindparam("row")).values(sampling=bindparam("kept"))
                connection.execute(change, words)

    def consent(self, user: str) -> bool | None:
        """Return the user's consent; None if the user was not asked."""
        with self.database.engine.connect() as connection:
            return connection.execute(select(CONSENTS.c.given).where(CONSENTS.c.user == user)).scalar()

    def last_deletion(self) -> float | None:
        """Unix seconds of the newest deletion of a user; None if nobody was deleted."""
        with self.database.engine.connect() as connection:
            return connection.execute(select(func.max(DELETIONS.c.at))).scalar()

    def delete(self, user: str, at: float | None = None) -> dict[str, int]:
        """Delete all that is known of a user, shadow requests and consent included; rows deleted by table.

        Requests that arrived before `at`, now if None, and are answered later are not recorded, by no gateway. API keys
        stay: they are credentials, and `Keys.remove` removes them. Until `Database.erase` SQLite's log holds the text.
        """
        own = select(REQUESTS.c.id).where(_of_user(user))
        conditions = {
            FEEDBACK: FEEDBACK.c.request_id.in_(own),
            RESPONSES: RESPONSES.c.request_id.in_(own),
            REQUESTS: REQUESTS.c.id.in_(own),
            EXPOSURES: EXPOSURES.c.user == user,
            CONSENTS: CONSENTS.c.user == user,
        }
        deletion = {"user": self.settings.pseudonym(user), "at": time.time() if at is None else at}
        with self.database.writer.begin() as connection:
            self.database.lock(connection, DELETIONS, shared=False)
            self.database.upsert(connection, DELETIONS, deletion)
            return {
                table.name: connection.execute(delete(table).where(condition)).rowcount
                for table, condition in conditions.items()
            }

    @contextmanager
    def recording(self, users: Collection[str]) -> Iterator[tuple[Connection, dict[str, UserStatus]]]:
        """A transaction, and what may be kept of each user, which stays so until it ends."""
        names = {user: self.settings.pseudonym(user) for user in users}
        with self.database.writer.begin() as connection:
            self.database.lock(connection, DELETIONS, shared=True)
            yield connection, self._status(connection, names)

    def _status(self, connection: Connection, names: Mapping[str, str]) -> dict[str, UserStatus]:
        gone = select(DELETIONS.c.user, DELETIONS.c.at).where(DELETIONS.c.user.in_(names.values()))
        deleted = {user: at for user, at in connection.execute(gone)}
        asked = select(CONSENTS).where(CONSENTS.c.user.in_(names))
        since = {user: at if given else math.inf for user, given, at in connection.execute(asked)}
        default = -math.inf if self.consent_by_default else math.inf
        return {
            user: UserStatus(deleted.get(name, -math.inf), since.get(storable(user), default))
            for user, name in names.items()
        }


def _of_user(user: str) -> Any:
    """The user's requests, and copies of them."""
    asked = REQUESTS.alias()
    return or_(REQUESTS.c.user == user, REQUESTS.c.shadow_of.in_(select(asked.c.id).where(asked.c.user == user)))
