"""Exposures record the probability of every arm, the salt and the key's owner; keys limit how many take part, and once
there has been one of a user, users need one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


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
