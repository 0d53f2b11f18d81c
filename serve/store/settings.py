"""Settings that the store makes for itself: its salt, and the pseudonyms made with it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from sqlalchemy import select

from serve.store.consent import salted_hash
from serve.store.database import Database
from serve.store.tables import SETTINGS, storable

SALT = "salt"


@dataclass(slots=True)
class Settings:
    """Rows of `settings`, which no operator writes."""

    database: Database
    cached_salt: str | None = field(default=None, init=False)
    """The salt, once it has been read: it never changes."""

    def salt(self) -> str:
        """Return a random salt, the same for as long as the store exists: its hashes of texts are made with it."""
        if self.cached_salt is None:
            with self.database.writer.begin() as connection:
                self.database.insert_new(connection, SETTINGS, {"name": SALT, "value": secrets.token_hex(16)})
                known = select(SETTINGS.c.value).where(SETTINGS.c.name == SALT)
                self.cached_salt = connection.execute(known).scalar_one()
        return self.cached_salt

    def pseudonym(self, user: str) -> str:
        """Return the hash that names the user in what stays after a deletion."""
        return salted_hash(self.salt(), storable(user))
