"""An SQLite file whose schema is up to date: short transactions, durable when they are committed.

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

from service.ground.files import disk_full_as_error
from service.store.schema import BUSY_TIMEOUT_SECONDS, Schema, bring_up_to_date


class Database:
    """The SQLite file `path`, made when missing, brought up to date when it is of an earlier version.

    Args:
        path: the file.
        schema: its tables.

    Raises:
        InvalidCatalogueError: the file is none of this kind, or one of a later version.
        StoreInUseError: the file is of an earlier version, and another process has it open.
        StoreFullError: the disk is full.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._read_lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk_full_as_error(path.parent, needed_bytes=0):
            bring_up_to_date(path, schema)
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
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection
