"""The catalogue in one SQLite file: which models, builds, exports, artifacts and curves a hub has.

All of it is small and every transaction short; a committed row survives a power cut (see `Database`). What a cached
request needs is kept in memory by `ExportService`. Times are seconds since the epoch. Safe to use from several threads.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.store.database import Database
from service.store.interface import FinishedWork, Manifest, ModelRow
from service.store.schema import Schema

SCHEMA = Schema(Path(__file__).parent / "migrations" / "catalogue", 2, "catalogue")
# About 400 bytes a row, and about 2 KiB.
EXPORTS_KEPT = 100_000
CURVES_KEPT = 1_000


class SqliteCatalogue:
    """A `Catalogue` in the SQLite file `path`, made when missing; what the methods promise is said there.

    Raises:
        InvalidCatalogueError: the file is no catalogue, or one of a later version of the service.
        StoreFullError: (any method that writes) the disk is full; nothing was changed.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._uses_lock = threading.Lock()
        self._uses: dict[str, float] = {}
        self._database = Database(path, SCHEMA)
        self._read = self._database.read

    def close(self) -> None:
        self.flush_uses()
        self._database.close()

    # Models

    def models(self) -> list[ModelRow]:
        rows = self._read("SELECT name, digest, size_bytes, description, added FROM models ORDER BY name")
        return [ModelRow(row[0], row[1], row[2], json.loads(row[3]), row[4]) for row in rows]

    def put_model(self, name: str, digest: str, size_bytes: int, description: dict[str, Any]) -> ModelRow:
        row = ModelRow(name, digest, size_bytes, description, self._clock())
        with self._write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?, ?)",
                (name, digest, size_bytes, json.dumps(description, sort_keys=True), row.added),
            )
        return row

    def delete_model(self, name: str) -> None:
        with self._write() as connection:
            connection.execute("DELETE FROM models WHERE name = ?", (name,))

    # Artifacts: the journal of the store

    def known_artifacts(self) -> list[tuple[str, int, float]]:
        rows = self._read("SELECT digest, size_bytes, last_used FROM artifacts ORDER BY last_used")
        return [(row[0], row[1], row[2]) for row in rows]

    def artifact_added(self, digest: str, size_bytes: int) -> None:
        now = self._clock()
        with self._write() as connection:
            connection.execute(
                "INSERT INTO artifacts VALUES (?, ?, ?) "
                "ON CONFLICT (digest) DO UPDATE SET size_bytes = excluded.size_bytes, last_used = excluded.last_used",
                (digest, size_bytes, now),
            )

    def artifact_removed(self, digest: str) -> None:
        with self._write() as connection:
            connection.execute("DELETE FROM artifacts WHERE digest = ?", (digest,))

    def artifact_used(self, digest: str) -> None:
        with self._uses_lock:
            self._uses[digest] = self._clock()

    def flush_uses(self) -> None:
        if self._uses:
            with self._write():
                pass

    # Builds and exports

    def work(self, key: str) -> FinishedWork | None:
        builds = self._read(
            "SELECT manifest, coalesce(members, '{}'), builds.created FROM builds LEFT JOIN exports USING (build_key) "
            "WHERE build_key = ? ORDER BY exports.created LIMIT 1",
            (key,),
        )
        for manifest, members, created in builds:
            result = {**json.loads(manifest), **json.loads(members)}
            return FinishedWork("export", result["model"], result, created)
        curves = self._read(
            "SELECT name, curve, created FROM curves JOIN models ON digest = checkpoint WHERE curve_key = ? LIMIT 1",
            (key,),
        )
        return FinishedWork("curve", curves[0][0], json.loads(curves[0][1]), curves[0][2]) if curves else None

    def build(self, build_key: str) -> Manifest | None:
        return self._manifest("SELECT manifest FROM builds WHERE build_key = ?", build_key)

    def export(self, request_key: str) -> Manifest | None:
        rows = self._read(
            "SELECT manifest, members FROM exports JOIN builds USING (build_key) WHERE request_key = ?", (request_key,)
        )
        return {**json.loads(rows[0][0]), **json.loads(rows[0][1])} if rows else None

    def manifest_of(self, digest: str) -> Manifest | None:
        return self._manifest("SELECT manifest FROM builds WHERE digest = ? ORDER BY created LIMIT 1", digest)

    def put_build(self, build_key: str, manifest: Manifest) -> None:
        with self._write() as connection:
            connection.execute(
                "INSERT INTO builds SELECT ?, digest, ?, ? FROM artifacts WHERE digest = ? "
                "ON CONFLICT (build_key) DO UPDATE SET digest = excluded.digest, manifest = excluded.manifest",
                (build_key, json.dumps(manifest), self._clock(), manifest["digest"]),
            )

    def put_export(self, request_key: str, build_key: str, members: Manifest) -> None:
        with self._write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO exports SELECT ?, build_key, ?, ? FROM builds WHERE build_key = ?",
                (request_key, json.dumps(members), self._clock(), build_key),
            )

    def trim(self, *, exports: int = EXPORTS_KEPT, curves: int = CURVES_KEPT) -> None:
        for table, kept in (("exports", exports), ("curves", curves)):
            excess = self._read(f"SELECT max(0, count(*) - ?) FROM {table}", (kept,))[0][0]
            if excess:
                with self._write() as connection:
                    connection.execute(
                        f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} ORDER BY created LIMIT ?)",
                        (excess,),
                    )

    # Curves

    def curve(self, curve_key: str) -> dict[str, Any] | None:
        return self._manifest("SELECT curve FROM curves WHERE curve_key = ?", curve_key)

    def put_curve(self, curve_key: str, checkpoint: str, curve: dict[str, Any]) -> None:
        with self._write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO curves VALUES (?, ?, ?, ?)",
                (curve_key, checkpoint, json.dumps(curve), self._clock()),
            )

    def delete_curves(self, checkpoint: str) -> None:
        with self._write() as connection:
            connection.execute("DELETE FROM curves WHERE checkpoint = ?", (checkpoint,))

    # Plumbing

    def _manifest(self, query: str, key: str) -> dict[str, Any] | None:
        rows = self._read(query, (key,))
        if not rows:
            return None
        value: dict[str, Any] = json.loads(rows[0][0])
        return value

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which also writes the pending uses; rolled back as a whole on any error."""
        uses: dict[str, float] = {}
        try:
            with self._database.write() as connection:
                with self._uses_lock:
                    uses, self._uses = self._uses, {}
                connection.executemany(
                    "UPDATE artifacts SET last_used = max(last_used, ?) WHERE digest = ?",
                    [(used, digest) for digest, used in uses.items()],
                )
                yield connection
        except BaseException:
            with self._uses_lock:
                self._uses = {**uses, **self._uses}
            raise
