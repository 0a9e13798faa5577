"""Names, nodes, generations, tokens and rollouts: the fleet's file as it was before it knew migrations."""

from __future__ import annotations

from alembic import op

revision = "1"
down_revision = None

STATEMENTS = (
    "CREATE TABLE names (name TEXT PRIMARY KEY, generation INTEGER NOT NULL) STRICT",
    "CREATE TABLE nodes (name TEXT PRIMARY KEY, public_key TEXT NOT NULL, labels TEXT NOT NULL, "
    "capability TEXT NOT NULL, enrolled REAL NOT NULL, last_seen REAL NOT NULL, current INTEGER, reported TEXT, "
    "declared TEXT) STRICT",
    "CREATE TABLE generations (node TEXT NOT NULL REFERENCES nodes ON DELETE CASCADE, number INTEGER NOT NULL, "
    "root INTEGER NOT NULL, kind TEXT NOT NULL, origin TEXT NOT NULL, desired TEXT NOT NULL, "
    "rollback INTEGER NOT NULL, created REAL NOT NULL, content TEXT, document TEXT, problem TEXT, search TEXT, "
    "committed REAL, PRIMARY KEY (node, number)) STRICT",
    "CREATE TABLE tokens (id TEXT PRIMARY KEY, secret_hash TEXT NOT NULL, node TEXT, created REAL NOT NULL, "
    "expires INTEGER NOT NULL, used_at INTEGER, used_by TEXT) STRICT",
    "CREATE TABLE rollouts (id TEXT PRIMARY KEY, created REAL NOT NULL, document TEXT NOT NULL) STRICT",
)


def upgrade() -> None:
    """Makes the tables."""
    for statement in STATEMENTS:
        op.execute(statement)
