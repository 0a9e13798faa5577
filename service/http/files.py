"""Sending an artifact: conditions, one range, digests, and a lease for as long as bytes flow (RFC 9110 and 9530).

Starlette's own file answer takes many ranges, which has been a way to make servers work without end, and knows nothing
of leases; so this is our own, for single ranges only. A request for several is answered with the whole file.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.ground.metrics import counter
from service.http.errors import RangeNotSatisfiableError
from service.store.interface import Lease

CACHED_BYTES = 1 << 16
"""Read at once on the event loop, where the page cache has it: a thread hop would cost more than the copy."""

BLOCK_BYTES = 1 << 19
"""Read at once in a thread, where the disk has to be waited for."""

_NOWAIT = getattr(os, "RWF_NOWAIT", None)
MEDIA_TYPE = "application/octet-stream"

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_TAG = re.compile(r'(?:W/)?"([^"]*)"')

_SENT_BYTES = counter("inn_artifact_bytes_sent_total", "Bytes of artifacts sent.")


@dataclass(frozen=True)
class ByteRange:
    """Bytes `start` to `stop - 1` of a file."""

    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """How many bytes."""
        return self.stop - self.start


def entity_tag(digest: str) -> str:
    """The ETag of an artifact: its digest, strong, since equal digests are equal bytes."""
    return f'"{digest}"'


def representation_digest(digest: str) -> str:
    """The value of `Repr-Digest` (RFC 9530) for `sha256:` and hex."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(digest.removeprefix('sha256:'))).decode()}:"


def is_not_modified(header: str | None, digest: str) -> bool:
    """Whether `If-None-Match` names the artifact, so that the client has it already."""
    if header is None:
        return False
    return header.strip() == "*" or digest in _TAG.findall(header)


def requested_range(headers: Mapping[str, str], digest: str, size_bytes: int) -> ByteRange | None:
    """The range that `Range` and `If-Range` ask for.

    Returns:
        None for the whole file: no range, one that is not understood, several, or `If-Range` of another version.

    Raises:
        RangeNotSatisfiableError: it lies outside the file.
    """
    found = _RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if found is None or headers.get("if-range", entity_tag(digest)).strip() != entity_tag(digest):
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    if not first:  # the last so many bytes
        wanted = ByteRange(max(0, size_bytes - int(last)), size_bytes)
    else:
        wanted = ByteRange(int(first), min(size_bytes, int(last) + 1) if last else size_bytes)
        if last and int(last) < int(first):
            return None
    if wanted.start >= size_bytes or wanted.size_bytes < 1:
        raise RangeNotSatisfiableError(size_bytes)
    return wanted


class ArtifactResponse(Response):
    """The bytes of a leased artifact, or an answer without them; ends the lease when it has been sent.

    Args:
        lease: on the artifact; this response releases it in every case.
        request_headers: for the conditions and the range.
        headers: further headers of the answer.
        head_only: send no body.

    Raises:
        RangeNotSatisfiableError: see `requested_range`; the lease is released.
    """

    def __init__(
        self,
        lease: Lease,
        request_headers: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        head_only: bool = False,
    ) -> None:
        self._lease = lease
        self._range = ByteRange(0, 0)
        values = {
            "etag": entity_tag(lease.digest),
            "cache-control": "public, max-age=31536000, immutable",
            "accept-ranges": "bytes",
            **(headers or {}),
        }
        status = 304
        if not is_not_modified(request_headers.get("if-none-match"), lease.digest):
            try:
                part = None if head_only else requested_range(request_headers, lease.digest, lease.size_bytes)
            except RangeNotSatisfiableError:
                lease.release()
                raise
            status = 200 if part is None else 206
            part = part or ByteRange(0, lease.size_bytes)
            values["repr-digest"] = representation_digest(lease.digest)
            values["content-length"] = str(part.size_bytes)
            values["content-type"] = MEDIA_TYPE
            if status == 206:
                values["content-range"] = f"bytes {part.start}-{part.stop - 1}/{lease.size_bytes}"
            if not head_only:
                self._range = part
        self.status_code = status
        self.background = None
        self.body = b""
        self.init_headers(values)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head and bytes; stops reading the file as soon as the client is gone."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if self._range.size_bytes == 0:
                await send({"type": "http.response.body", "body": b""})
                return
            await self._send_range(receive, send)
        finally:
            self._lease.release()

    async def _send_range(self, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_disconnected(receive))
        descriptor = await asyncio.to_thread(os.open, self._lease.path, os.O_RDONLY)
        try:
            position = self._range.start
            while position < self._range.stop and not gone.done():
                left = self._range.stop - position
                block = read_cached(descriptor, min(CACHED_BYTES, left), position)
                if block is None:
                    block = await asyncio.to_thread(os.pread, descriptor, min(BLOCK_BYTES, left), position)
                if not block:
                    digest, size_bytes = self._lease.digest, self._lease.size_bytes
                    raise OSError(f"artifact {digest} is shorter than its {size_bytes} bytes")
                position += len(block)
                await send({"type": "http.response.body", "body": block, "more_body": position < self._range.stop})
                _SENT_BYTES.inc(len(block))
        finally:
            os.close(descriptor)
            gone.cancel()


def read_cached(descriptor: int, n_bytes: int, position: int) -> bytes | bytearray | None:
    """Bytes of a file that can be had without waiting for a disk.

    Args:
        descriptor: of the open file.
        n_bytes: how many at most.
        position: of the first.

    Returns:
        At least one byte, nothing at the end of the file, or None where the page cache has none of them, or the system
        cannot say (only Linux can, and not on every file system).
    """
    if _NOWAIT is None:
        return None
    block = bytearray(n_bytes)
    try:
        n_read = os.preadv(descriptor, [block], position, _NOWAIT)
    except OSError:  # EAGAIN, or not supported: the caller's thread reads, and has the error if it is one
        return None
    del block[n_read:]
    return block


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
