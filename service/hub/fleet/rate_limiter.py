"""How often the reports of one node may make the hub plan and export for it: a few times at once, then seldom."""

from __future__ import annotations

import time
from collections.abc import Callable

AT_ONCE = 8
"""A search for a measured budget takes three steps and a declared budget one; an operator may restart a node or two."""
EACH_SECONDS = 60.0


class RateLimiter:
    """A bucket of tokens for each node. Belongs to one event loop.

    Args:
        at_once: changes that a node may cause one after the other.
        each_seconds: after that, the time for one more.
        running: seconds that never go back.
    """

    def __init__(
        self,
        *,
        at_once: int = AT_ONCE,
        each_seconds: float = EACH_SECONDS,
        running: Callable[[], float] = time.monotonic,
    ) -> None:
        self._at_once = at_once
        self._each_seconds = each_seconds
        self._running = running
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, node: str) -> bool:
        """Whether the node may cause one more change now; if so, it is counted."""
        now = self._running()
        left, since = self._left.get(node, (float(self._at_once), now))
        left = min(float(self._at_once), left + (now - since) / self._each_seconds)
        if left < 1:
            return False
        self._left[node] = left - 1, now
        return True

    def forget(self, node: str) -> None:
        """Drops what is remembered of a node that is gone."""
        self._left.pop(node, None)
