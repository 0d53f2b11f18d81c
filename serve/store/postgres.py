"""PostgreSQL's connections, and how long is waited for a server that does not answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError, OperationalError

from rlhf.types import InputError


@dataclass(kw_only=True, slots=True)
class PostgresConfig:
    """A PostgreSQL server that hangs, or is cut off silently, is given up after a while."""

    silence_s: float = 10.0
    """Seconds without a byte from the server, while connecting to it and in a statement, after which the connection is
    given up: feedback and operators get 503, records wait. At least what the longest statement computes before its
    first row."""
    statement_s: float = 120.0
    """Seconds after which the server itself ends a statement (`statement_timeout`), its rows and its wait for locks
    included; 0: never. A statement whose connection was given up would continue in the server."""
    connections: int = 15
    """Connections of each process at most; a further use waits for one, up to `silence_s`."""

    def __post_init__(self) -> None:
        if self.silence_s <= 0 or self.statement_s < 0 or self.connections < 1:
            raise InputError(
                f"store.postgres: silence_s={self.silence_s:g}, statement_s={self.statement_s:g}, "
                f"connections={self.connections}: give seconds above 0 (statement_s: or 0), and at least 1 connection"
            )


def connect_postgres(url: URL, config: PostgresConfig, **options: Any) -> Engine:
    """Return an engine whose every wait ends: pg8000's timeouts become errors that SQLAlchemy knows."""
    patience = {"timeout": config.silence_s}
    engine = create_engine(
        url,
        connect_args=patience,
        pool_size=config.connections,
        max_overflow=0,
        pool_timeout=config.silence_s,
        **options,
    )
    silence = f"no byte from PostgreSQL within store.postgres.silence_s={config.silence_s:g} s"

    @event.listens_for(engine, "do_connect")
    def begin(dialect: Any, record: object, arguments: Sequence[Any], parameters: dict[str, Any]) -> Any:
        try:
            return dialect.connect(*arguments, **parameters)
        except TimeoutError:
            raise dialect.loaded_dbapi.OperationalError(silence) from None

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET statement_timeout = {round(1000 * config.statement_s)}")
        connection.commit()

    @event.listens_for(engine, "checkout")
    def see(connection: Any, record: Any, proxy: object) -> None:
        """Check the connection, in place of `pool_pre_ping`, which lets a timeout pass as it is."""
        try:
            connection.cursor().execute("SELECT 1")
            connection.rollback()
        except TimeoutError as error:
            # Another connection would wait as long.
            record.invalidate(error)
            raise OperationalError("SELECT 1", {}, ConnectionError(silence)) from None
        except (engine.dialect.loaded_dbapi.Error, OSError):
            raise DisconnectionError from None

    @event.listens_for(engine, "handle_error")
    def end(context: Any) -> Exception | None:
        if not isinstance(context.original_exception, OSError):
            return None
        context.is_disconnect = True
        return OperationalError(context.statement, {}, ConnectionError(silence), hide_parameters=True)

    return engine
