"""The users that an experiment has shown an arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, func, select

from serve.store.database import Database
from serve.store.people import People
from serve.store.records import Exposure
from serve.store.tables import EXPOSURES


@dataclass(frozen=True, slots=True)
class Exposures:
    """First times that experiments show users an arm. One transaction per call."""

    database: Database
    people: People

    def add(self, exposure: Exposure, *, most: int | None = None) -> bool:
        """Keep the first time that the experiment shows the user an arm, and return whether the user takes part.

        `most`: users of one owner who do; further ones do not. Several processes may let in some more together. A user
        who was deleted since takes no part.
        """
        return self.add_all([(exposure, most)])[0]

    def add_all(self, limited: Sequence[tuple[Exposure, int | None]]) -> list[bool]:
        """Record exposures as `add` does, each with its limit, in one transaction."""
        if not limited:
            return []
        with self.people.recording({exposure.user for exposure, _ in limited}) as (connection, people):
            return [
                people[exposure.user].is_kept(exposure.at) and self._expose(connection, exposure, most)
                for exposure, most in limited
            ]

    def _expose(self, connection: Connection, exposure: Exposure, most: int | None) -> bool:
        if most is not None:
            place = (EXPOSURES.c.experiment == exposure.experiment, EXPOSURES.c.user == exposure.user)
            known = connection.execute(select(EXPOSURES.c.user).where(*place)).first() is not None
            if not known and self._exposed_of(connection, exposure) >= most:
                return False
        self.database.insert_new(connection, EXPOSURES, asdict(exposure))
        return True

    def _exposed_of(self, connection: Connection, exposure: Exposure) -> int:
        """Users of the same owner who take part already."""
        same = (EXPOSURES.c.experiment == exposure.experiment, EXPOSURES.c.owner == exposure.owner)
        return int(connection.execute(select(func.count()).select_from(EXPOSURES).where(*same)).scalar_one())

    def counts(self, experiment: str) -> dict[str, int]:
        """Users by the variant that they were shown."""
        counts = (
            select(EXPOSURES.c.variant, func.count())
            .where(EXPOSURES.c.experiment == experiment)
            .group_by(EXPOSURES.c.variant)
            .order_by(EXPOSURES.c.variant)
        )
        with self.database.engine.connect() as connection:
            return {variant: count for variant, count in connection.execute(counts)}
