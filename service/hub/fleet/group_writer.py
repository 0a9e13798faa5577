"""Changes to a database from one event loop, in order, those that come together in one transaction.

Forcing a transaction to the disk takes milliseconds, so 200 nodes that report at once must not cost 200 of them.
"""

from __future__ import annotations

import asyncio
import sqlite3
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
