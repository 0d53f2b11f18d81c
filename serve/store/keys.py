"""API keys, by their hashes."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from serve.store.database import Database
from serve.store.records import Key, Role
from serve.store.tables import KEYS, SETTINGS

USER_KEYS = {"name": "user_keys", "value": "required"}
"""The setting of a store that has had a user's key."""


@dataclass(frozen=True, slots=True)
class Keys:
    """One transaction per call."""

    database: Database

    def add(self, hash: str, role: str, owner: str, at: float, users: int | None = None) -> None:
        with self.database.writer.begin() as connection:
            connection.execute(insert(KEYS).values(hash=hash, role=role, owner=owner, at=at, users=users))
            if role == Role.user:
                self.database.insert_new(connection, SETTINGS, USER_KEYS)

    def required_of_users(self) -> bool:
        """Return whether any user has ever had a key: after the last one is removed, users still need one."""
        with self.database.engine.connect() as connection:
            known = select(SETTINGS.c.value).where(SETTINGS.c.name == USER_KEYS["name"])
            return connection.execute(known).scalar() is not None

    def get(self, hash: str) -> Key | None:
        with self.database.engine.connect() as connection:
            row = connection.execute(select(KEYS).where(KEYS.c.hash == hash)).mappings().first()
            return Key(**row) if row else None

    def all(self) -> list[Key]:
        """The oldest first."""
        with self.database.engine.connect() as connection:
            rows = connection.execute(select(KEYS).order_by(KEYS.c.at, KEYS.c.hash))
            return [Key(**row) for row in rows.mappings()]

    def remove(self, hash: str) -> bool:
        """Remove a key; return whether it existed."""
        with self.database.writer.begin() as connection:
            return connection.execute(delete(KEYS).where(KEYS.c.hash == hash)).rowcount == 1
