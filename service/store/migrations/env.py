"""What Alembic runs for every command: revisions, in the transaction that `service/store/schema.py` has begun."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # as SQLite has it once a transaction was begun by hand
)
with context.begin_transaction():
    context.run_migrations()
