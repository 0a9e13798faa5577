"""Sessions by artifact digest: opened once for all who ask, bounded in number and bytes, never closed while in use.

Everything here happens on one event loop, so that there is nothing to lock; only loading a file and closing a session
run in a thread. A session holds a lease on its artifact for as long as it is open.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.inference.batcher import INLINE_SECONDS, Batcher
from service.inference.errors import SessionsBusyError, SessionTooLargeError
from service.inference.memory import release_free_memory
from service.inference.providers import CPU
from service.inference.session import Session, open_session, show_sessions
from service.store.interface import ArtifactStore, Lease

log = logging.getLogger(__name__)

BUSY_WAIT_SECONDS = 10.0
BATCH_ROWS_MAX = 32


@dataclass
class _Slot:
    """A place in the pool, taken from the moment somebody asks for the digest until its session is closed."""

    lease: Lease
    ready: asyncio.Future[Batcher]
    users: int = 0


@dataclass(eq=False)
class SessionPool:
    """Loaded sessions, least recently used first.

    Attributes:
        store: where artifacts are leased from.
        sessions_max: sessions that may be loaded at one time, at least 1.
        memory_bytes: bytes of artifacts that may be loaded at one time.
        threads: of one run; 0 takes one for each processor core.
        providers: ONNX Runtime providers, from `usable_providers`.
        batch_rows_max: most rows of one run.
        inline_seconds: see `Batcher`.
        busy_wait_seconds: how long a request waits for a place when all are in use.
    """

    store: ArtifactStore
    sessions_max: int
    memory_bytes: int
    threads: int = 0
    providers: Sequence[str] = (CPU,)
    batch_rows_max: int = BATCH_ROWS_MAX
    inline_seconds: float = INLINE_SECONDS
    busy_wait_seconds: float = BUSY_WAIT_SECONDS

    def __post_init__(self) -> None:
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._size_bytes = 0
        self._waiting: list[asyncio.Future[None]] = []
        # One thread loads and closes: two large files at once would need twice the memory.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="inn-session-loader")
        self._runners = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="inn-session-run")

    @property
    def digests(self) -> list[str]:
        """Digests of the sessions that are loaded or loading, least recently used first."""
        return list(self._slots)

    @property
    def size_bytes(self) -> int:
        """Bytes of the artifacts that are loaded or loading."""
        return self._size_bytes

    @asynccontextmanager
    async def use(self, digest: str) -> AsyncIterator[Batcher]:
        """The session of an artifact, opened when needed; it stays open at least until the block is left.

        Args:
            digest: of an artifact in the store.

        Raises:
            UnknownArtifactError: the store does not have it.
            SessionsBusyError: no place became free in time.
            SessionTooLargeError: it would never fit.
            InferenceFailedError: the file cannot be loaded.
        """
        slot = self._slots.get(digest)
        if slot is None:
            slot = await self._reserve(digest)
        else:
            self._slots.move_to_end(digest)
        slot.users += 1
        try:
            yield slot.ready.result() if slot.ready.done() else await asyncio.shield(slot.ready)
        finally:
            slot.users -= 1
            if slot.users == 0:
                self._wake()

    async def evict_idle(self) -> int:
        """Close every session that nobody uses now and give its artifact's lease back; returns how many."""
        idle = [digest for digest, slot in self._slots.items() if slot.users == 0 and slot.ready.done()]
        await asyncio.gather(*(self._close_slot(digest) for digest in idle))
        return len(idle)

    async def close(self) -> None:
        """Close all sessions once what runs has ended; the pool cannot be used afterwards."""
        await asyncio.gather(*(slot.ready for slot in self._slots.values()), return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._runners.shutdown)
        await asyncio.gather(*(self._close_slot(digest) for digest in list(self._slots)))
        self._loader.shutdown()

    async def _reserve(self, digest: str) -> _Slot:
        """Take a place for the digest, evicting idle sessions, and start loading."""
        lease = self.store.lease(digest)
        try:
            if lease.size_bytes > self.memory_bytes:
                raise SessionTooLargeError(digest, needed_bytes=lease.size_bytes, limit_bytes=self.memory_bytes)
            await self._make_room(lease.size_bytes, digest)
        except BaseException:
            lease.release()
            raise
        if (slot := self._slots.get(digest)) is not None:  # another request took a place while this one waited
            lease.release()
            return slot
        loop = asyncio.get_running_loop()
        slot = _Slot(lease, loop.create_future())
        self._slots[digest] = slot
        self._size_bytes += lease.size_bytes
        self._tell()
        loading = loop.run_in_executor(
            self._loader,
            lambda: open_session(
                lease.path, digest=digest, size_bytes=lease.size_bytes, threads=self.threads, providers=self.providers
            ),
        )
        loading.add_done_callback(lambda done: self._loaded(digest, slot, done))
        return slot

    def _loaded(self, digest: str, slot: _Slot, done: asyncio.Future[Session]) -> None:
        error = done.exception()
        if error is not None:
            self._forget(digest)
            slot.ready.set_exception(error)
            slot.ready.exception()  # those who wait raise it; nobody may be waiting any more
            return
        log.info("session opened", extra={"digest": digest, "size_bytes": slot.lease.size_bytes})
        slot.ready.set_result(
            Batcher(
                done.result(),
                self._runners,
                rows_max=self.batch_rows_max,
                inline_seconds=self.inline_seconds,
            )
        )

    async def _make_room(self, size_bytes: int, digest: str) -> None:
        """Evict idle sessions until one more fits; wait a while when all are in use."""
        deadline = asyncio.get_running_loop().time() + self.busy_wait_seconds
        while digest not in self._slots and (
            len(self._slots) >= self.sessions_max or self._size_bytes + size_bytes > self.memory_bytes
        ):
            idle = next((key for key, slot in self._slots.items() if slot.users == 0 and slot.ready.done()), None)
            if idle is not None:
                await self._close_slot(idle)
                continue
            freed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(freed)
            try:
                async with asyncio.timeout_at(deadline):
                    await freed
            except TimeoutError as error:
                raise SessionsBusyError(len(self._slots), retry_after=max(1, round(self.busy_wait_seconds))) from error
            finally:
                if freed in self._waiting:
                    self._waiting.remove(freed)

    async def _close_slot(self, digest: str) -> None:
        slot = self._forget(digest)
        if slot is None:
            return
        log.info("session closed", extra={"digest": digest})
        slot.ready = asyncio.get_running_loop().create_future()  # drops the last reference to the session
        slot.ready.cancel()
        await asyncio.get_running_loop().run_in_executor(self._loader, release_free_memory)

    def _forget(self, digest: str) -> _Slot | None:
        slot = self._slots.pop(digest, None)
        if slot is not None:
            self._size_bytes -= slot.lease.size_bytes
            slot.lease.release()
            self._tell()
            self._wake()
        return slot

    def _tell(self) -> None:
        show_sessions(len(self._slots), self._size_bytes)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for freed in waiting:
            if not freed.done():
                freed.set_result(None)
