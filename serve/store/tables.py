"""Tables of the feedback store. Times are unix seconds; texts are NULL without consent."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    UniqueConstraint,
)
from sqlalchemy import Text as SqlText
from sqlalchemy.types import TypeDecorator

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def storable(text: str) -> str:
    """`text` as both databases can hold it: PostgreSQL has no NUL, UTF-8 no lone surrogates; JSON brings both."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


class Text(TypeDecorator[str]):
    """Any text that a user or a model writes."""

    impl = SqlText
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


def json_column(name: str, **options: Any) -> Column[Any]:
    return Column(name, JSON(none_as_null=True), **options)


VARIANTS = Table(
    "variants",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("folder", Text, nullable=False),
    Column("base", Text),
    json_column("files", nullable=False),
    Column("version", Text, nullable=False),
    Column("at", Double, nullable=False),
)

REQUESTS = Table(
    "requests",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("user", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("experiment", Text),
    # No foreign key: a copy may be answered, and recorded, before what it copies.
    Column("shadow_of", Text, index=True),
    Column("conversation", Text, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("prompt_hash", Text, nullable=False),
    json_column("messages"),
    json_column("sampling", nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", Text),
    Column("prompt_tokens", Integer),
    Column("latency_s", Double, nullable=False),
    Column("first_token_s", Double),
    Index(None, "at", "id"),
    Index(None, "experiment", "at"),
    Index(None, "user", "prompt_hash", "at"),
)

RESPONSES = Table(
    "responses",
    METADATA,
    Column("request_id", ForeignKey("requests.id", ondelete="CASCADE"), primary_key=True),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("text", Text),
    Column("finish_reason", Text),
    Column("num_tokens", Integer),
    json_column("tool_calls"),
)

FEEDBACK = Table(
    "feedback",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("request_id", Text, nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("choice", Integer, nullable=False),
    Column("value", Double),
    Column("text", Text),
    Column("name", Text),
    # Whose it is, the request says: users judge their own answers alone.
    ForeignKeyConstraint(["request_id", "choice"], ["responses.request_id", "responses.index"], ondelete="CASCADE"),
)

EXPOSURES = Table(
    "exposures",
    METADATA,
    Column("experiment", Text, primary_key=True),
    Column("user", Text, primary_key=True, index=True),
    Column("variant", Text, nullable=False),
    Column("at", Double, nullable=False),
    json_column("weights", nullable=False),
    Column("salt", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Index(None, "experiment", "owner"),
    Index(None, "experiment", "at", "user"),
)

CONSENTS = Table(
    "consents",
    METADATA,
    Column("user", Text, primary_key=True),
    Column("given", Boolean, nullable=False),
    Column("at", Double, nullable=False),
)

# What was under way when a user was deleted is not kept. The salted hash of the name is all that stays.
DELETIONS = Table(
    "deletions",
    METADATA,
    Column("user", Text, primary_key=True),
    Column("at", Double, nullable=False),
)

EXPORTS = Table(
    "exports",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("folder", Text, nullable=False),
    # sha256 of its manifest. NULL until it is committed.
    Column("manifest", Text),
    Column("at", Double, nullable=False),
    # Why rows of users who withdrew could not be taken out of it the last time.
    Column("problem", Text),
)

# What the rows of an export were made from. Users are salted hashes: they are needed once the requests are gone.
EXPORTED = Table(
    "exported_requests",
    METADATA,
    Column("export_id", ForeignKey("exports.id", ondelete="CASCADE"), primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("user", Text, nullable=False, index=True),
)

KEYS = Table(
    "keys",
    METADATA,
    Column("hash", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("users", Integer),
)

# Serve applications that this service deployed: the others on its cluster are not its own.
APPLICATIONS = Table(
    "applications",
    METADATA,
    Column("name", Text, primary_key=True),
)

SETTINGS = Table(
    "settings",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

RELEASES = Table(
    "releases",
    METADATA,
    # The order in which they began.
    Column("id", Integer, primary_key=True),
    # Experiments are named after it.
    Column("name", Text, nullable=False, index=True, unique=True),
    Column("candidate", Text, nullable=False),
    Column("predecessor", Text, nullable=False),
    Column("phase", Text, nullable=False),
    json_column("state", nullable=False),
    Column("version", Integer, nullable=False),
    # True or NULL, and NULLs are never equal: at most one release is open.
    Column("open", Boolean),
    UniqueConstraint("open"),
    CheckConstraint("open", name="open_or_null"),
    sqlite_autoincrement=True,
)

TRANSITIONS = Table(
    "transitions",
    METADATA,
    Column("release_id", ForeignKey("releases.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("outcome", Text),
    Column("by", Text, nullable=False),
    Column("reason", Text),
    json_column("evidence", nullable=False),
)

PRODUCTION = Table(
    "production",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("at", Double, nullable=False),
    CheckConstraint("id = 1", name="single_row"),
)
