"""Downloads an artifact: hashed while it streams, resumed from what is on the disk, never a byte more than promised.

What is there of an earlier attempt is hashed again and the rest is asked for with `Range` and `If-Range`. A hub that
ignores the range starts over. When all bytes are there and their digest is wrong, the file is dropped and fetched anew
once; whatever fails then is for the caller to try again later.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from service.ground.errors import DigestMismatchError
from service.ground.files import disk_full_as_error
from service.node.errors import DownloadInterruptedError, HubUnreachableError, InvalidAnswerError
from service.node.hub_client import HubClient
from service.node.store import NodeStore

BLOCK_BYTES = 1 << 20
GRACE_SECONDS = 60.0
SLOWEST_BYTES_PER_SECOND = 16 << 10
"""An attempt may take `GRACE_SECONDS` and the time of its bytes at this rate; the next goes on where it stopped."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


@dataclass(frozen=True)
class Pace:
    """How slow a download may be: `seconds_for(n_bytes)` at most."""

    grace_seconds: float = GRACE_SECONDS
    slowest_bytes_per_second: float = SLOWEST_BYTES_PER_SECOND

    def seconds_for(self, n_bytes: int) -> float:
        """Longest time of an attempt that has so many bytes to fetch."""
        return self.grace_seconds + n_bytes / self.slowest_bytes_per_second


async def download(
    hub: HubClient,
    store: NodeStore,
    *,
    digest: str,
    size_bytes: int,
    progress: Callable[[int], None],
    pace: Pace | None = None,
    part: Path | None = None,
) -> None:
    """Fetch an artifact into its place in the store's staging folder; `store.adopt` gives it its name.

    Args:
        hub: where from.
        store: where to.
        digest, size_bytes: of the artifact, as its signed manifest says.
        progress: told how many bytes are there.
        pace: how slow it may be.
        part: the file to write, which nobody else may write at the same time; `store.part(digest)` by default.

    Raises:
        DownloadInterruptedError: it broke off, or went too slowly; what is there is kept.
        HubUnreachableError, HubRefusedError, InvalidAnswerError: nothing could be fetched.
        DigestMismatchError: the bytes were wrong twice.
        StoreFullError: the disk has no room.
    """
    path = part or store.part(digest)
    for attempt in (1, 2):
        found = await _fetch_rest(hub, store, path, digest, size_bytes, progress, pace or Pace())
        if found == digest:
            return
        await asyncio.to_thread(path.unlink, missing_ok=True)
        if attempt == 2:
            raise DigestMismatchError("the downloaded artifact", expected=digest, found=found)


async def _fetch_rest(
    hub: HubClient,
    store: NodeStore,
    path: Path,
    digest: str,
    size_bytes: int,
    progress: Callable[[int], None],
    pace: Pace,
) -> str:
    """Fetch what is missing; returns the digest of the whole file."""
    part = _Part(path)
    try:
        await _finished(asyncio.to_thread(part.open, size_bytes))
        progress(part.size_bytes)
        if part.size_bytes == size_bytes:
            return part.digest
        await asyncio.to_thread(store.check_room, size_bytes - part.size_bytes)
        try:
            async with asyncio.timeout(pace.seconds_for(size_bytes - part.size_bytes)):
                async with hub.artifact(digest, start=part.size_bytes) as response:
                    start = _start_of(response, part.size_bytes, size_bytes)
                    await _finished(asyncio.to_thread(part.start_at, start))
                    await _receive(response, part, size_bytes, progress)
        except (HubUnreachableError, TimeoutError) as error:
            await _finished(asyncio.to_thread(part.flush))
            if part.size_bytes == 0 and isinstance(error, HubUnreachableError):
                raise
            reason = "it was too slow" if isinstance(error, TimeoutError) else str(error)
            raise DownloadInterruptedError(
                digest, done_bytes=part.size_bytes, total_bytes=size_bytes, reason=reason
            ) from error
        if part.size_bytes < size_bytes:
            raise DownloadInterruptedError(
                digest, done_bytes=part.size_bytes, total_bytes=size_bytes, reason="the answer ended early"
            )
        return part.digest
    finally:
        await _finished(asyncio.to_thread(part.close))


async def _receive(response: httpx.Response, part: _Part, size_bytes: int, progress: Callable[[int], None]) -> None:
    """Write what comes, a block at a time in a thread, so that requests are served meanwhile."""
    pending = bytearray()
    try:
        async for chunk in response.aiter_raw():
            if part.size_bytes + len(pending) + len(chunk) > size_bytes:
                raise InvalidAnswerError("the artifact", f"it has more than the {size_bytes:,} bytes of its manifest")
            pending += chunk
            if len(pending) >= BLOCK_BYTES:
                block, pending = bytes(pending), bytearray()
                await _finished(asyncio.to_thread(part.write, block))
                progress(part.size_bytes)
    finally:
        if pending:
            # Also when the connection broke: the next attempt goes on from here. Synchronously, since a task that was
            # cancelled may not wait.
            part.write(bytes(pending))
            progress(part.size_bytes)


async def _finished(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work in a thread also when this task is cancelled: nobody else may touch the file before it ends."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _start_of(response: httpx.Response, asked: int, size_bytes: int) -> int:
    """Where the bytes of an answer begin, when its headers fit the manifest."""
    start = 0
    if response.status_code == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if found is None or tuple(map(int, found.groups())) != (asked, size_bytes - 1, size_bytes):
            raise InvalidAnswerError("the artifact", f"it is not the range from {asked:,} that was asked for")
        start = asked
    length = response.headers.get("content-length")
    if length is not None and (not length.isdecimal() or int(length[:20]) != size_bytes - start):
        raise InvalidAnswerError(
            "the artifact", f"its length is {length[:20]}, its manifest says {size_bytes - start:,} bytes"
        )
    return start


class _Part:
    """The file of a download, and the digest of what is in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self.size_bytes = 0
        self._hash = hashlib.sha256()

    def open(self, size_bytes: int) -> None:
        """Open the file and hash what is there; more than so many bytes are not a part of this artifact."""
        self._file = self._path.open("a+b")
        if self._path.stat().st_size > size_bytes:
            self.start_at(0)
        self._file.seek(0)
        while block := self._file.read(BLOCK_BYTES):
            self._hash.update(block)
            self.size_bytes += len(block)

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def start_at(self, start: int) -> None:
        """Go on where the answer begins: at the end of what is there, or all over."""
        if start != self.size_bytes or start == 0:
            assert self._file is not None, "it is open"
            self._file.truncate(0)
            self._hash = hashlib.sha256()
            self.size_bytes = 0

    def write(self, block: bytes) -> None:
        assert self._file is not None, "it is open"
        with disk_full_as_error(self._path.parent, needed_bytes=len(block)):
            self._file.write(block)
            self._file.flush()
        self._hash.update(block)
        self.size_bytes += len(block)

    def flush(self) -> None:
        assert self._file is not None, "it is open"
        with disk_full_as_error(self._path.parent, needed_bytes=0):
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            with disk_full_as_error(self._path.parent, needed_bytes=0):
                self._file.close()
