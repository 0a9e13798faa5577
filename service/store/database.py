"""An SQLite file with a schema of one version: short transactions, durable when they are committed.

Write-ahead logging with full synchronisation: a committed row survives a power cut. One connection to write and one to
read, each behind a lock, so that a reader never waits for the disk. Safe to use from several threads.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.ground.errors import InvalidCatalogueError
from service.ground.files import disk_full_as_error

BUSY_TIMEOUT_SECONDS = 10.0


class Database:
    """The SQLite file `path`, made when missing.

    Args:
        path: the file.
        schema: statements that make the tables of a new file.
        version: of the schema; a file of another version is refused.
        what: the file holds, for messages, such as "catalogue".

    Raises:
        InvalidCatalogueError: the file is no database of this schema version.
        StoreFullError: the disk is full.
    """

    def __init__(self, path: Path, *, schema: str, version: int, what: str) -> None:
        self._path = path
        self._schema = schema
        self._version = version
        self._what = what
        self._lock = threading.Lock()
        self._read_lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk_full_as_error(path.parent, needed_bytes=0):
            self._connection = self._open()
            self._reader = self._open()

    def close(self) -> None:
        """Closes the file; nothing is pending."""
        with self._lock, self._read_lock:
            self._reader.close()
            self._connection.close()

    def read(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """All rows of a query, as of the last committed transaction."""
        with self._read_lock:
            return self._reader.execute(query, values).fetchall()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, committed at the end of the block and rolled back as a whole on any error.

        Raises:
            StoreFullError: the disk is full; nothing was changed.
        """
        with self._lock, disk_full_as_error(self._path.parent, needed_bytes=0):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                connection.executescript(
                    f"BEGIN IMMEDIATE; {self._schema} PRAGMA user_version = {self._version}; COMMIT;"
                )
                version = self._version
        except sqlite3.DatabaseError as error:
            connection.close()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                raise InvalidCatalogueError(f"{self._path} is no {self._what}; move it away and start again") from error
            raise
        if version != self._version:
            connection.close()
            raise InvalidCatalogueError(
                f"{self._path} has schema version {version}, this version of the service writes {self._version}; "
                "use the version that wrote it, or another store folder"
            )
        return connection
