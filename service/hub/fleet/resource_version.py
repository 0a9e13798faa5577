"""A number that grows with every change, and those who wait for it to grow."""

from __future__ import annotations

import asyncio
import time


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
