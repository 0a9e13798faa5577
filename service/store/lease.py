"""Entries of the local store's index, and the leases that keep them from being evicted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(eq=False)
class Entry:
    """An artifact in the index. `leases` is guarded by the store's index lock; `used` is set in one assignment."""

    digest: str
    size_bytes: int
    used: int
    leases: int = 0


class LocalLease:
    """A `Lease` on an entry, which the store has counted already.

    Args:
        entry: what is leased; it may outlive its place in the index when the file is lost.
        path: its file.
        give_back: takes the count back.
    """

    def __init__(self, entry: Entry, path: Path, give_back: Callable[[Entry], None]) -> None:
        self._entry = entry
        self._path = path
        self._give_back = give_back
        self._once = threading.Lock()

    @property
    def digest(self) -> str:
        """Digest of the artifact."""
        return self._entry.digest

    @property
    def path(self) -> Path:
        """Its file, readable while the lease is held."""
        return self._path

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self._entry.size_bytes

    def release(self) -> None:
        """Ends the lease; a second call does nothing."""
        if self._once.acquire(blocking=False):
            self._give_back(self._entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
