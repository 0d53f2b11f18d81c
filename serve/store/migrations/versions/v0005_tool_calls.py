"""Responses keep the tool calls that they make."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("responses", sa.Column("tool_calls", sa.JSON(none_as_null=True), nullable=True))
