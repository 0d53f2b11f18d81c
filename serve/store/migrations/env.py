"""Run by alembic inside `serve.store.database.migrate`, which holds the transaction and the lock.

A new revision is a file in `versions/` named after the one that it follows; a test holds that all of them together make
the tables of `serve/store/tables.py`.
"""

from __future__ import annotations

from alembic import context

from serve.store.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
