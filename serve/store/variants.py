"""Models that are or were served, and the Serve applications of their engines."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete, select, update

from rlhf.types import InputError
from serve.store.database import Database
from serve.store.records import Variant
from serve.store.tables import APPLICATIONS, VARIANTS


@dataclass(frozen=True, slots=True)
class Variants:
    """Registered models. One transaction per call."""

    database: Database

    def add(self, variant: Variant) -> None:
        """Register a model. The same files again are the same variant, also in another folder; InputError for others
        under its name."""
        with self.database.writer.begin() as connection:
            if self.database.insert_new(connection, VARIANTS, asdict(variant)):
                return
            known = _variant(connection, variant.name)
            if known is None or (known.version, known.base) != (variant.version, variant.base):
                raise InputError(
                    f"models.{variant.name}={variant.folder}: the name already belongs to other files (those of "
                    f"{known.folder if known else 'another model'}); give this model another name"
                )
            moved = update(VARIANTS).where(VARIANTS.c.name == variant.name).values(folder=variant.folder)
            connection.execute(moved)

    def get(self, name: str) -> Variant | None:
        with self.database.engine.connect() as connection:
            return _variant(connection, name)

    def all(self) -> list[Variant]:
        """Return all variants in order of registration."""
        with self.database.engine.connect() as connection:
            rows = connection.execute(select(VARIANTS).order_by(VARIANTS.c.at, VARIANTS.c.name))
            return [Variant(**row) for row in rows.mappings()]


@dataclass(frozen=True, slots=True)
class Applications:
    """Serve applications that this service deployed. One transaction per call."""

    database: Database

    def add(self, name: str) -> None:
        """Note that this service deploys the application."""
        with self.database.writer.begin() as connection:
            self.database.insert_new(connection, APPLICATIONS, {"name": name})

    def remove(self, name: str) -> None:
        with self.database.writer.begin() as connection:
            connection.execute(delete(APPLICATIONS).where(APPLICATIONS.c.name == name))

    def names(self) -> set[str]:
        """Return the applications that this service deployed and has not deleted since."""
        with self.database.engine.connect() as connection:
            return set(connection.execute(select(APPLICATIONS.c.name)).scalars())


def _variant(connection: Connection, name: str) -> Variant | None:
    row = connection.execute(select(VARIANTS).where(VARIANTS.c.name == name)).mappings().first()
    return Variant(**row) if row else None
