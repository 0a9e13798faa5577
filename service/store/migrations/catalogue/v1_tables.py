"""Models, artifacts, builds, exports and curves: the catalogue as it was before it knew migrations."""

from __future__ import annotations

from alembic import op

revision = "1"
down_revision = None

STATEMENTS = (
    "CREATE TABLE models (name TEXT PRIMARY KEY, digest TEXT NOT NULL, size_bytes INTEGER NOT NULL, "
    "description TEXT NOT NULL, added REAL NOT NULL) STRICT",
    "CREATE TABLE artifacts (digest TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, created REAL NOT NULL, "
    "last_used REAL NOT NULL) STRICT",
    "CREATE TABLE builds (build_key TEXT PRIMARY KEY, digest TEXT NOT NULL REFERENCES artifacts ON DELETE CASCADE, "
    "manifest TEXT NOT NULL, created REAL NOT NULL) STRICT",
    "CREATE TABLE exports (request_key TEXT PRIMARY KEY, "
    "build_key TEXT NOT NULL REFERENCES builds ON DELETE CASCADE, members TEXT NOT NULL, "
    "created REAL NOT NULL) STRICT",
    "CREATE TABLE curves (curve_key TEXT PRIMARY KEY, checkpoint TEXT NOT NULL, curve TEXT NOT NULL, "
    "created REAL NOT NULL) STRICT",
    "CREATE INDEX builds_by_digest ON builds (digest)",
    "CREATE INDEX exports_by_build ON exports (build_key)",
    "CREATE INDEX exports_by_age ON exports (created)",
)


def upgrade() -> None:
    """Makes the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
