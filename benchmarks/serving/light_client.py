"""One kept-alive HTTP/1.1 connection on asyncio that costs little and counts its bytes; a process can have hundreds.

Only what the hub sends: a head, then a body of the length that `Content-Length` says. Not for other servers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

BLOCK_BYTES = 1 << 18
WITHOUT_BODY = (204, 304)


@dataclass
class Traffic:
    """What went over any number of connections: requests, and bytes of heads and bodies both ways."""

    requests: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    def since(self, earlier: Traffic) -> Traffic:
        """What was added after an earlier copy."""
        return Traffic(
            self.requests - earlier.requests,
            self.sent_bytes - earlier.sent_bytes,
            self.received_bytes - earlier.received_bytes,
        )


@dataclass(frozen=True)
class Answer:
    """Status, headers by lower-case names, and the body unless it was passed on."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, *expected: int) -> Any:
        """The body as JSON (None when empty), when the status is one of `expected`.

        Raises:
            SystemExit: it is another; shows the answer.
        """
        if self.status not in expected:
            raise SystemExit(f"error: the hub answered {self.status}: {self.body.decode(errors='replace')[:500]}")
        return json.loads(self.body) if self.body else None


class LightClient:
    """A connection to one server, opened at the first request; one request at a time.

    Args:
        address: such as `http://127.0.0.1:8000`.
        traffic: counts what goes over it.
    """

    def __init__(self, address: str, traffic: Traffic) -> None:
        self._authority = urlsplit(address).netloc
        self._traffic = traffic
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        take: Callable[[bytes], object] | None = None,
    ) -> Answer:
        """Send a request and read its answer.

        Args:
            method, target: as they go into the request line.
            body: JSON, or nothing.
            headers: beside those of the body.
            take: is given the blocks of a 200's body instead of the answer.
        """
        reader, writer = await self._connected()
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._authority}"]
        if body:
            lines.append("Content-Type: application/json")
        lines += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        writer.write(request)
        await writer.drain()
        self._traffic.requests += 1
        self._traffic.sent_bytes += len(request)
        head = await reader.readuntil(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").rstrip().split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        status = int(first.split()[1])
        left = 0 if status in WITHOUT_BODY else int(found["content-length"])
        self._traffic.received_bytes += len(head) + left
        content = b""
        if take is None or status != 200:
            content = await reader.readexactly(left)
        else:
            while left:
                block = await reader.read(min(left, BLOCK_BYTES))
                if not block:
                    raise ConnectionError(f"the answer to {method} {target} ended {left} bytes early")
                left -= len(block)
                take(block)
        return Answer(status, found, content)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            host, _, port = self._authority.rpartition(":")
            self._streams = await asyncio.open_connection(host, int(port), limit=2 * BLOCK_BYTES)
        return self._streams
