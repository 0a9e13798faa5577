"""Artifacts lose `created`, which nothing ever read; curves of a checkpoint are found without reading all."""

from __future__ import annotations

from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Drops the column, adds the index."""
    op.execute("ALTER TABLE artifacts DROP COLUMN created")
    op.execute("CREATE INDEX curves_by_checkpoint ON curves (checkpoint)")
