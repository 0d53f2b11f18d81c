"""Exposures record the probability of every arm and the salt."""

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
    op.add_column("exposures", sa.Column("salt", sa.Text(), nullable=False, server_default=sa.text("''")))
