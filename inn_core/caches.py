"""Results that are computed once and kept: as long as what they belong to lives, or among those asked for last."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Owner = TypeVar("Owner")
Result = TypeVar("Result")


class MostRecent(Generic[Key, Result]):
    """Keeps the results that were asked for last, by key.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[Key, Result] = {}  # the most recently used last

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def get(self, key: Key, compute: Callable[[], Result]) -> Result:
        """The result of a key, never None; computed where it is not kept."""
        result = self._kept.pop(key, None)
        if result is None:
            result = compute()
        self._kept[key] = result
        while len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]
        return result

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()


class WeakCache(Generic[Owner, Result]):
    """Keeps one result per live owner, by identity (checkpoints hold arrays and have no hash).

    Safe to use from several threads; two that ask at once may both compute, and one result is kept. A result must
    not refer to its owner, or neither would ever be freed.
    """

    def __init__(self, compute: Callable[[Owner], Result]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[weakref.ref[Owner], Result]] = {}

    def __call__(self, owner: Owner) -> Result:
        """The result for an owner."""
        key = id(owner)
        known = self._kept.get(key)
        if known is not None and known[0]() is owner:
            return known[1]
        result = self._compute(owner)
        with self._lock:
            known = self._kept.get(key)
            if known is None or known[0]() is not owner:
                known = weakref.ref(owner, lambda gone: self._forget(key, gone)), result
                self._kept[key] = known
        return known[1]

    def _forget(self, key: int, gone: weakref.ref[Owner]) -> None:
        # Runs whenever the collector does, so it must not wait for the lock; single dict operations are atomic.
        known = self._kept.get(key)
        if known is not None and known[0] is gone:
            self._kept.pop(key, None)
