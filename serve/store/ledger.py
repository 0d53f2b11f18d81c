"""Records of operators: models, keys, releases with their transitions, and the variant in production."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from rlhf.types import InputError, RunError
from serve.store.consent import salted_hash
from serve.store.database import Database
from serve.store.records import UNDER_WAY, Key, Role, Variant
from serve.store.tables import APPLICATIONS, KEYS, PRODUCTION, RELEASES, SETTINGS, TRANSITIONS, VARIANTS, storable

SALT = "salt"
USER_KEYS = {"name": "user_keys", "value": "required"}
"""The setting of a store that has had a user's key."""


class StaleRelease(RunError):
    """A release that somebody else has changed since it was read: read it again, and decide again."""


class Ledger(Database):
    """One transaction per call."""

    def add_variant(self, variant: Variant) -> None:
        """Register a model. The same files again are the same variant, also in another folder; InputError for others
        under its name."""
        with self.writer.begin() as connection:
            if self.insert_new(connection, VARIANTS, asdict(variant)):
                return
            known = self._variant(connection, variant.name)
            if known is None or (known.version, known.base) != (variant.version, variant.base):
                raise InputError(
                    f"models.{variant.name}={variant.folder}: the name already belongs to other files (those of "
                    f"{known.folder if known else 'another model'}); give this model another name"
                )
            moved = update(VARIANTS).where(VARIANTS.c.name == variant.name).values(folder=variant.folder)
            connection.execute(moved)

    def variant(self, name: str) -> Variant | None:
        with self.engine.connect() as connection:
            return self._variant(connection, name)

    def variants(self) -> list[Variant]:
        """Return all variants in order of registration."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(VARIANTS).order_by(VARIANTS.c.at, VARIANTS.c.name))
            return [Variant(**row) for row in rows.mappings()]

    def _variant(self, connection: Connection, name: str) -> Variant | None:
        row = connection.execute(select(VARIANTS).where(VARIANTS.c.name == name)).mappings().first()
        return Variant(**row) if row else None

    def add_key(self, hash: str, role: str, owner: str, at: float, users: int | None = None) -> None:
        with self.writer.begin() as connection:
            connection.execute(insert(KEYS).values(hash=hash, role=role, owner=owner, at=at, users=users))
            if role == Role.user:
                self.insert_new(connection, SETTINGS, USER_KEYS)

    def user_keys_required(self) -> bool:
        """Return whether any user has ever had a key: after the last one is removed, users still need one."""
        with self.engine.connect() as connection:
            known = select(SETTINGS.c.value).where(SETTINGS.c.name == USER_KEYS["name"])
            return connection.execute(known).scalar() is not None

    def key(self, hash: str) -> Key | None:
        with self.engine.connect() as connection:
            row = connection.execute(select(KEYS).where(KEYS.c.hash == hash)).mappings().first()
            return Key(**row) if row else None

    def all_keys(self) -> list[Key]:
        """The oldest first."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(KEYS).order_by(KEYS.c.at, KEYS.c.hash))
            return [Key(**row) for row in rows.mappings()]

    def remove_key(self, hash: str) -> bool:
        """Remove a key; return whether it existed."""
        with self.writer.begin() as connection:
            return connection.execute(delete(KEYS).where(KEYS.c.hash == hash)).rowcount == 1

    def salt(self) -> str:
        """Random, and the same for as long as the store exists: its hashes of texts are made with it."""
        with self.writer.begin() as connection:
            self.insert_new(connection, SETTINGS, {"name": SALT, "value": secrets.token_hex(16)})
            return connection.execute(select(SETTINGS.c.value).where(SETTINGS.c.name == SALT)).scalar_one()

    def pseudonym(self, user: str) -> str:
        """A hash that names the user in what stays after a deletion."""
        return salted_hash(self._salt, storable(user))

    @cached_property
    def _salt(self) -> str:
        return self.salt()

    def add_application(self, name: str) -> None:
        """Note that this service deploys the Serve application."""
        with self.writer.begin() as connection:
            self.insert_new(connection, APPLICATIONS, {"name": name})

    def remove_application(self, name: str) -> None:
        with self.writer.begin() as connection:
            connection.execute(delete(APPLICATIONS).where(APPLICATIONS.c.name == name))

    def applications(self) -> set[str]:
        """Serve applications that this service deployed and has not deleted since."""
        with self.engine.connect() as connection:
            return set(connection.execute(select(APPLICATIONS.c.name)).scalars())

    def save_release(
        self,
        release: Mapping[str, Any],
        transition: Mapping[str, Any] | None = None,
        *,
        production: str | None = None,
    ) -> dict[str, Any]:
        """Save a release, what has become of it, and what answers users from now on, all or nothing.

        Args:
            release: `candidate`, `predecessor`, `phase`, `state` (anything JSON holds) and `updated_at`. A new one has
                no `id`; any other is what this function, `latest_release` or `releases` gave, with its changes.
            transition: `at`, `before`, `after`, `outcome`, `by`, `reason` and `evidence`.
            production: the variant that is in production from `updated_at` on. None: as before.

        Returns:
            The release with its `id` and new `version`.

        Raises:
            InputError: a new release while another is open.
            StaleRelease: another process saved it since it was read; nothing of this is kept.
        """
        with self.writer.begin() as connection:
            saved = self._update(connection, release) if "id" in release else self._insert(connection, release)
            if transition is not None:
                last = select(func.coalesce(func.max(TRANSITIONS.c.number), 0)).where(
                    TRANSITIONS.c.release_id == saved["id"]
                )
                number = connection.execute(last).scalar_one() + 1
                row = {**transition, "release_id": saved["id"], "number": number}
                connection.execute(insert(TRANSITIONS).values(row))
            if production is not None:
                self.upsert(connection, PRODUCTION, {"id": 1, "name": production, "at": release["updated_at"]})
        return saved

    def _insert(self, connection: Connection, release: Mapping[str, Any]) -> dict[str, Any]:
        row = {**release, "version": 1, "open": _open(release["phase"])}
        try:
            id = connection.execute(insert(RELEASES).values(row).returning(RELEASES.c.id)).scalar_one()
        except IntegrityError:
            raise InputError(
                f"a release of '{release['candidate']}' cannot start while another is under way: wait for its end, or "
                "roll it back"
            ) from None
        return {**release, "id": id, "version": 1}

    def _update(self, connection: Connection, release: Mapping[str, Any]) -> dict[str, Any]:
        id, version = release["id"], release["version"]
        unchanged = (RELEASES.c.id == id) & (RELEASES.c.version == version)
        row = {**release, "version": version + 1, "open": _open(release["phase"])}
        if connection.execute(update(RELEASES).where(unchanged).values(row)).rowcount != 1:
            raise StaleRelease(f"release {id}: another process has changed it meanwhile; read it again")
        return {**release, "version": version + 1}

    def latest_release(self) -> dict[str, Any] | None:
        with self.engine.connect() as connection:
            row = connection.execute(_releases().order_by(RELEASES.c.id.desc()).limit(1)).mappings().first()
            return dict(row) if row else None

    def releases(self) -> list[dict[str, Any]]:
        """The oldest first."""
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(_releases().order_by(RELEASES.c.id)).mappings()]

    def transitions(self, release_id: int) -> list[dict[str, Any]]:
        """Return a release's transitions in order."""
        of_release = select(TRANSITIONS).where(TRANSITIONS.c.release_id == release_id).order_by(TRANSITIONS.c.number)
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(of_release).mappings()]

    def production(self) -> str | None:
        """The variant that answers users outside of releases. None: nothing was ever set."""
        with self.engine.connect() as connection:
            return connection.execute(select(PRODUCTION.c.name)).scalar()

    def set_production(self, name: str, at: float) -> None:
        with self.writer.begin() as connection:
            self.upsert(connection, PRODUCTION, {"id": 1, "name": name, "at": at})


def _open(phase: str) -> bool | None:
    return True if phase in UNDER_WAY else None


def _releases() -> Any:
    return select(*(column for column in RELEASES.c if column.name != "open"))
