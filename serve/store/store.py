"""Everything that serving remembers, in parts over one database."""

from __future__ import annotations

from collections.abc import Collection

from serve.store.database import Database
from serve.store.exports import Exports
from serve.store.exposures import Exposures
from serve.store.keys import Keys
from serve.store.people import People
from serve.store.postgres import PostgresConfig
from serve.store.releases import Releases
from serve.store.requests import Requests
from serve.store.settings import Settings
from serve.store.variants import Applications, Variants


class Store:
    """The parts of the store. Threads and processes may share it; a function takes the parts that it needs."""

    def __init__(
        self,
        url: str,
        *,
        consent_by_default: bool = False,
        outcomes: Collection[str] = (),
        postgres: PostgresConfig | None = None,
    ) -> None:
        """Open the database at `url`. The arguments are those of `People` and `Database`, which raises InputError."""
        self.database = Database(url, postgres)
        self.settings = Settings(self.database)
        self.people = People(self.database, self.settings, consent_by_default, frozenset(outcomes))
        self.requests = Requests(self.database, self.people)
        self.exposures = Exposures(self.database, self.people)
        self.exports = Exports(self.database, self.settings, self.requests)
        self.variants = Variants(self.database)
        self.applications = Applications(self.database)
        self.keys = Keys(self.database)
        self.releases = Releases(self.database)

    def close(self) -> None:
        self.database.close()
