"""The builder processes of a hub, lent to one build at a time in the order of asking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from service.builds.worker_process import START_TIMEOUT_SECONDS, BuilderClient


class BuilderPool:
    """Lends builders; who waits longest gets the next. Belongs to one event loop.

    Args:
        builders: at least one.
    """

    def __init__(self, builders: Sequence[BuilderClient]) -> None:
        if not builders:
            raise ValueError("a pool needs at least one builder")
        self._builders = list(builders)
        self._idle: asyncio.Queue[BuilderClient] = asyncio.Queue()
        for builder in self._builders:
            self._idle.put_nowait(builder)

    def __len__(self) -> int:
        return len(self._builders)

    @property
    def pids(self) -> list[int]:
        """Process ids of the living builders."""
        return [pid for builder in self._builders if (pid := builder.pid) is not None]

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[BuilderClient]:
        """A builder for the time of the block; waits until one is idle."""
        builder = await self._idle.get()
        try:
            yield builder
        finally:
            self._idle.put_nowait(builder)

    async def start(self) -> None:
        """Starts all processes and lets them load what the first build would otherwise wait for.

        Raises:
            BuilderDiedError: a process does not start.
        """
        await asyncio.gather(
            *(builder.call("warm", {}, timeout_seconds=START_TIMEOUT_SECONDS) for builder in self._builders)
        )

    async def close(self) -> None:
        """Ends all processes."""
        await asyncio.gather(*(builder.close() for builder in self._builders))
