"""The database behind the store: SQLite in a file or PostgreSQL, its schema, its transactions."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError

from rlhf.train.artifact import without_nan
from rlhf.types import InputError
from serve.store.postgres import PostgresConfig, connect_postgres
from serve.store.tables import storable

LOG = logging.getLogger(__name__)
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 30
"""Seconds that a writer of SQLite waits for another one: it has one at a time."""
LONGEST_MIGRATION_S = 86_400.0
PAGE = 1000
"""Ids looked up at once."""
MIGRATION_LOCK = 0x726C6866
"""PostgreSQL's advisory locks are numbers."""

INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Erasure(StrEnum):
    """State of deleted text in the database's files."""

    gone = "gone"
    pending = "pending"
    """A reader, such as an export or a backup, still has an older snapshot open, or the store is unavailable."""
    vacuum = "vacuum"
    """PostgreSQL lets its space be overwritten when it vacuums, by itself."""


class Database:
    """A database with the newest schema. Threads and processes may share it."""

    def __init__(self, url: str, postgres: PostgresConfig | None = None) -> None:
        """Open the store at `url`. Raises InputError if there is none, or one with another schema. `postgres`: None is
        the default."""
        parsed = parse(url)
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
            raise InputError(f"{parsed.database}: no database there; start the service once, which makes it")
        self.engine = connect(parsed, postgres)
        self.writer = self.engine.execution_options(writes=True)
        found, newest = self.revision(), script().get_current_head()
        if found != newest:
            self.close()
            raise InputError(
                f"{without_password(parsed)}: its schema is {found or 'none'}, this version needs {newest}; start "
                "this version of the service once, which brings it there"
            )

    def revision(self) -> str | None:
        with connection_errors(self.engine.url), self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def close(self) -> None:
        self.engine.dispose()

    def erase(self) -> Erasure:
        """Take what was deleted out of SQLite's log, where it lies beside the database. Waits for nobody.

        The database itself has overwritten it (`secure_delete`), free pages included, once the log is empty.
        """
        if self.engine.dialect.name != "sqlite":
            return Erasure.vacuum
        # Beside SQLAlchemy, which would begin a transaction.
        try:
            with closing(self.engine.raw_connection()) as connection:
                cursor = connection.cursor()
                # A checkpoint that waits for readers keeps writers waiting too.
                cursor.execute("PRAGMA busy_timeout=0")
                try:
                    (busy, *_) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                finally:
                    cursor.execute(f"PRAGMA busy_timeout={1000 * BUSY_TIMEOUT_S}")
        except sqlite3.OperationalError as error:
            LOG.debug("deleted text stays in the log of the store: %s", error)
            return Erasure.pending
        return Erasure.pending if busy else Erasure.gone

    def lock(self, connection: Connection, table: Table, *, shared: bool) -> None:
        """Lock the table until the transaction ends: it is one transaction's alone, or shared by any number of them.

        SQLite has one writer at a time anyway.
        """
        if self.engine.dialect.name == "postgresql":
            mode = "SHARE" if shared else "SHARE ROW EXCLUSIVE"
            connection.exec_driver_sql(f'LOCK TABLE "{table.name}" IN {mode} MODE')

    def insert_unless_there(self, table: Table) -> Any:
        """A statement that inserts rows whose keys are new, also where another process inserts at the same time."""
        return INSERTS[self.engine.dialect.name](table).on_conflict_do_nothing()

    def insert_new(self, connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
        """Insert the row unless one with its key exists. Returns whether it was new."""
        return connection.execute(self.insert_unless_there(table), dict(row)).rowcount == 1

    def upsert(self, connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
        """Insert the row, or overwrite the one with its key."""
        keys = [column.name for column in table.primary_key]
        others = {name: value for name, value in row.items() if name not in keys}
        statement = INSERTS[self.engine.dialect.name](table).values(dict(row))
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=others))


def migrate(url: str, revision: str = "head", postgres: PostgresConfig | None = None) -> None:
    """Bring the database at `url` to a schema, the newest; of SQLite the file is created. Others may do so at once."""
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite":
        make_private(Path(parsed.database or ""))
    if parsed.get_backend_name() == "postgresql":
        with connection_errors(parsed):
            check_reachable(parsed, postgres)
    # Changes of large tables are silent for long.
    engine = connect(parsed, PostgresConfig(silence_s=LONGEST_MIGRATION_S, statement_s=0))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        with connection_errors(parsed), engine.execution_options(writes=True).begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    finally:
        engine.dispose()


def make_private(path: Path) -> None:
    """Let its owner alone read and write an SQLite database, which is created if it does not exist.

    SQLite gives its log and its index the permissions of the database.
    """
    with suppress(OSError):  # SQLite's own words follow
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    for one in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
        try:
            one.chmod(0o600)
        except FileNotFoundError:
            continue
        except OSError as error:
            LOG.warning("%s: others may read it (%s); give it to this service's user, or chmod 600 it", one, error)


def script() -> ScriptDirectory:
    return ScriptDirectory(str(MIGRATIONS))


def parse(url: str) -> URL:
    remedy = "give sqlite:///FILE or postgresql+pg8000://USER@HOST/NAME"
    try:
        parsed = make_url(url)
    except ArgumentError:
        # Not quoted: it may hold a password.
        raise InputError(f"store.url: it is no SQLAlchemy URL; {remedy}") from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite") and parsed.database not in (None, "", ":memory:"):
        return parsed
    if parsed.drivername == "postgresql+pg8000":
        return parsed
    raise InputError(
        f"store.url={without_password(parsed)}: neither SQLite in a file nor PostgreSQL by pg8000; {remedy}"
    )


def connect(url: URL, config: PostgresConfig | None = None) -> Engine:
    # Values of a statement are what users wrote: no error names them.
    options: dict[str, Any] = {"json_serializer": to_json, "hide_parameters": True}
    if url.get_backend_name() == "postgresql":
        return connect_postgres(url, config or PostgresConfig(), **options)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, **options)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        # The driver must not begin transactions of its own: `begin` below does.
        connection.isolation_level = None
        use_write_ahead_log(connection)
        for pragma in ("foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later would fail, not wait, where another writes in between.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def check_reachable(url: URL, config: PostgresConfig | None) -> None:
    """Raise DBAPIError if PostgreSQL does not answer in its usual time."""
    engine = connect(url, config)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def use_write_ahead_log(connection: Any) -> None:
    """Enable the write-ahead log, so that readers and a writer do not wait for each other. The file keeps the setting.

    Of several that open a new file SQLite gives all but one an error at once, whatever their timeout.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextmanager
def connection_errors(url: URL) -> Iterator[None]:
    """Raise InputError if the database cannot be used."""
    try:
        yield
    except DBAPIError as error:
        raise InputError(
            f"{without_password(url)}: the database cannot be used ({reason(error)}); correct store.url, or start "
            "its server"
        ) from None


def reason(error: Exception) -> str:
    """Return the error in one line, without the statement and without PostgreSQL's details, which quote values."""
    cause = getattr(error, "orig", None) or error
    fields = cause.args[0] if cause.args else None
    return " ".join((str(fields.get("M")) if isinstance(fields, dict) else str(cause)).split())


def without_password(url: URL) -> str:
    """Return the URL without its password."""
    return url.render_as_string(hide_password=True)


def pages(ids: Collection[str]) -> Iterator[list[str]]:
    """Yield the ids, `PAGE` at a time."""
    listed = list(ids)
    return (listed[start : start + PAGE] for start in range(0, len(listed), PAGE))


def to_json(value: object) -> str:
    return storable(json.dumps(without_nan(value), ensure_ascii=False, allow_nan=False))
