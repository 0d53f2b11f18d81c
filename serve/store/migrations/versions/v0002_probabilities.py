"""Exposures record the probability of every arm, the salt and the key's owner.

Keys limit how many take part, and once there has been one of a user, users need one. Hashes of texts are salted, and
less is kept of users without consent. Serve applications that the service deployed are noted.
"""

from __future__ import annotations

import hmac
import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
PAGE = 1000
"""Rows changed at once."""


def upgrade() -> None:
    # Exposures from before have no probabilities: their users are in no test.
    op.add_column(
        "exposures", sa.Column("weights", sa.JSON(none_as_null=True), nullable=False, server_default=sa.text("'{}'"))
    )
    for name in ("salt", "owner"):
        op.add_column("exposures", sa.Column(name, sa.Text(), nullable=False, server_default=sa.text("''")))
    op.create_index("ix_exposures_experiment_owner", "exposures", ["experiment", "owner"])
    op.add_column("keys", sa.Column("users", sa.Integer(), nullable=True))
    create_settings()
    forget_words()


def create_settings() -> None:
    op.create_table(
        "settings",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_settings"),
    )
    op.create_table(
        "applications",
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_applications"),
    )
    op.execute("INSERT INTO settings SELECT 'user_keys', 'required' FROM keys WHERE role = 'user' LIMIT 1")


def forget_words() -> None:
    """Salt the hashes that there are, and keep of requests without consent what later ones keep."""
    connection, salt = op.get_bind(), secrets.token_hex(16)
    connection.execute(sa.text("INSERT INTO settings VALUES ('salt', :salt)"), {"salt": salt})
    requests = sa.table(
        "requests",
        *(sa.column(name) for name in ("id", "prompt_hash", "conversation", "error")),
        *(sa.column(name, sa.JSON(none_as_null=True)) for name in ("messages", "sampling")),
    )
    page = sa.select(requests).order_by(requests.c.id).limit(PAGE)
    rows = connection.execute(page).all()
    while rows:
        changed = [
            {
                "row": row.id,
                "new_hash": hmac.new(salt.encode(), row.prompt_hash.encode(), "sha256").hexdigest(),
                "new_conversation": hmac.new(salt.encode(), row.conversation.encode(), "sha256").hexdigest(),
                "new_error": row.error if row.messages is not None else None,
                "new_sampling": row.sampling if row.messages is not None else numbers(row.sampling),
            }
            for row in rows
        ]
        change = requests.update().where(requests.c.id == sa.bindparam("row"))
        connection.execute(
            change.values(
                prompt_hash=sa.bindparam("new_hash"),
                conversation=sa.bindparam("new_conversation"),
                error=sa.bindparam("new_error"),
                sampling=sa.bindparam("new_sampling"),
            ),
            changed,
        )
        rows = connection.execute(page.where(requests.c.id > rows[-1].id)).all()


def numbers(sampling: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in sampling.items() if isinstance(value, int | float)}
