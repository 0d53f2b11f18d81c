"""Releases have unique ids, and a counter that gives none twice.

Ids came from the number of releases, so that one could come again after a deletion.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

COUNTS = {
    "sqlite": "SELECT seq FROM sqlite_sequence WHERE name = 'releases'",
    "postgresql": "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM releases_id_seq",
}
"""Number of the newest row there ever was. Ids of releases were never above it."""


def upgrade() -> None:
    op.add_column("releases", sa.Column("name", sa.Text(), nullable=False, server_default=sa.text("''")))
    name_releases()
    op.create_index("ix_releases_name", "releases", ["name"], unique=True)
    op.drop_column("releases", "updated_at")
    connection = op.get_bind()
    count = connection.execute(sa.text(COUNTS[connection.dialect.name])).scalar() or 0
    connection.execute(sa.text("INSERT INTO settings VALUES ('last_release', :count)"), {"count": str(count)})


def name_releases() -> None:
    """Name every release by its id. Of those with the same id the newest keeps it, as it may be under way."""
    connection = op.get_bind()
    releases = sa.table("releases", sa.column("id"), sa.column("name"), sa.column("state", sa.JSON(none_as_null=True)))
    taken: set[str] = set()
    for number, state in connection.execute(sa.select(releases.c.id, releases.c.state).order_by(releases.c.id.desc())):
        id = state["id"] if state["id"] not in taken else f"{state['id']}-{number}"
        taken.add(id)
        change = releases.update().where(releases.c.id == number).values(name=id, state={**state, "id": id})
        connection.execute(change)
