"""What lets one event loop serve many nodes: changes written in groups, a bucket of tokens each, a number to wait for.

Forcing a transaction to the disk takes milliseconds, so 200 nodes that report at once must not cost 200 of them:
changes are written in order, those that come together in one transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.store.database import Database

Change = Callable[[sqlite3.Connection], object]

BATCH_LIMIT = 500


@dataclass(frozen=True)
class _Order:
    changes: tuple[Change, ...]
    then: Callable[[], None]
    done: asyncio.Future[None]


class GroupWriter:
    """Writes changes. Belongs to one event loop.

    Args:
        database: what is changed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._orders: list[_Order] = []
        self._task: asyncio.Task[None] | None = None

    async def commit(self, *changes: Change, then: Callable[[], None] = lambda: None) -> None:
        """Writes changes all or none, after those that were given before, and returns when they are durable.

        Args:
            changes: given the connection inside a transaction.
            then: called on the event loop when they are durable, also when the caller no longer waits; must not raise.

        Raises:
            StoreFullError: the disk is full; nothing was changed.
            sqlite3.Error: they contradict what is in the file; nothing was changed.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._orders.append(_Order(changes, then, done))
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="fleet writer")
        await asyncio.shield(done)

    async def close(self) -> None:
        """Waits until everything is written."""
        while self._task is not None:
            await asyncio.shield(self._task)

    async def _drain(self) -> None:
        try:
            while self._orders:
                batch, self._orders = self._orders[:BATCH_LIMIT], self._orders[BATCH_LIMIT:]
                try:
                    errors = await asyncio.to_thread(self._write, batch)
                except Exception as error:  # handed to those who wait
                    errors = [error] * len(batch)
                for order, failed in zip(batch, errors, strict=True):
                    if failed is None:
                        order.then()
                    if order.done.cancelled():
                        continue
                    if failed is None:
                        order.done.set_result(None)
                    else:
                        order.done.set_exception(failed)
                        order.done.exception()  # whoever waits raises it; nobody may be waiting any more
        finally:
            self._task = None

    def _write(self, batch: list[_Order]) -> list[Exception | None]:
        errors: list[Exception | None] = []
        with self._database.write() as connection:
            for order in batch:
                connection.execute("SAVEPOINT change")
                try:
                    for change in order.changes:
                        change(connection)
                except (sqlite3.IntegrityError, sqlite3.DataError) as error:  # of this order alone
                    connection.execute("ROLLBACK TO change")
                    errors.append(error)
                else:
                    errors.append(None)
                connection.execute("RELEASE change")
        return errors


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


class ResourceVersion:
    """Belongs to one event loop. Starts at the time in milliseconds, so that no number of an earlier process is met."""

    def __init__(self) -> None:
        self._number = int(time.time() * 1000)
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def number(self) -> int:
        """The number now."""
        return self._number

    def advance(self) -> None:
        """Something changed."""
        self._number += 1
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait_beyond(self, number: int, seconds: float) -> None:
        """Returns when the number is another one than this, or after some time."""
        if self._number == number:
            await wait_for_wake(self._waiting, seconds)


async def wait_for_wake(waiting: set[asyncio.Future[None]], seconds: float) -> bool:
    """Waits as one of those who wait; returns whether it was woken in time."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting.add(future)
    try:
        async with asyncio.timeout(seconds):
            await future
    except TimeoutError:
        return False
    finally:
        waiting.discard(future)
    return True
