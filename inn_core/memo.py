"""Results that belong to a network: computed once, dropped when the network is."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from inn_core.network import Checkpoint

Result = TypeVar("Result")


class PerNetwork(Generic[Result]):
    """Keeps one result per live network, by identity (networks hold arrays and have no hash).

    Safe to use from several threads; two that ask at once may both compute, and one result is kept. A result must
    not refer to its network, or neither would ever be freed.
    """

    def __init__(self, compute: Callable[[Checkpoint], Result]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[weakref.ref[Checkpoint], Result]] = {}

    def __call__(self, network: Checkpoint) -> Result:
        """The result for a network."""
        key = id(network)
        known = self._kept.get(key)
        if known is not None and known[0]() is network:
            return known[1]
        result = self._compute(network)
        with self._lock:
            known = self._kept.get(key)
            if known is None or known[0]() is not network:
                known = weakref.ref(network, lambda gone: self._forget(key, gone)), result
                self._kept[key] = known
        return known[1]

    def _forget(self, key: int, gone: weakref.ref[Checkpoint]) -> None:
        # Runs whenever the collector does, so it must not wait for the lock; single dict operations are atomic.
        known = self._kept.get(key)
        if known is not None and known[0] is gone:
            self._kept.pop(key, None)
