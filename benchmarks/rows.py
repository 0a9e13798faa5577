"""Measured rows in a JSON file: written after every row, so that a run that is stopped loses one row at most.

A row is a key, which says exactly what was measured, and what was found. Several processes may add to one file at a
time: it is read again under a lock before it is written.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.output import write_text

Json = dict[str, Any]


class Rows:
    """The rows of one file.

    Args:
        path: of the JSON file; its folder is made when the first row is written.
        environment: noted with every new row, not part of its key.
    """

    def __init__(self, path: Path, *, environment: Mapping[str, Any] | None = None) -> None:
        self._path = path
        self._environment = dict(environment or {})

    def all(self) -> list[Json]:
        """Every row as `{"key": …, "found": …, "environment": …}`, in the order of measurement."""
        if not self._path.is_file():
            return []
        rows: list[Json] = json.loads(self._path.read_text())["rows"]
        return rows

    def find(self, key: Mapping[str, Any]) -> Json | None:
        """What was found under exactly this key, or None."""
        return next((row["found"] for row in self.all() if row["key"] == dict(key)), None)

    def measured(self, key: Mapping[str, Any], measure: Callable[[], Json]) -> Json:
        """What was found under this key, now or in an earlier run; both must be plain JSON values."""
        known = self.find(key)
        if known is not None:
            return known
        found: Json = json.loads(json.dumps(measure()))
        with self._locked():
            again = self.find(key)
            if again is not None:
                return again
            rows = [*self.all(), {"key": dict(key), "found": found, "environment": self._environment}]
            text = json.dumps({"rows": rows}, indent=1) + "\n"
            write_text(self._path, text)
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
