"""Exposures in order of time, as a look reads those since the last one."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("ix_exposures_experiment_at_user", "exposures", ["experiment", "at", "user"])
