"""`http.response.zerocopysend` of ASGI on uvicorn: bytes of a file go to the socket without passing through Python.

uvicorn does not have this extension. It is offered here where the server's own `send` shows a plain connection, and is
not where it does not: over TLS, on other servers, or should a later uvicorn look otherwise. Apps then send blocks.

The kernel copies for as long as the socket has room. Then one page goes through the transport, which gets it out when
there is room again and says so: no second watcher of the same socket is needed, which uvloop would not allow.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

EXTENSION = "http.response.zerocopysend"
PAGE_BYTES = 1 << 12


class _Flow(Protocol):
    """uvicorn's flow control."""

    write_paused: bool

    async def drain(self) -> None:
        """Waits while writing is paused."""
        ...


class _Exchange(Protocol):
    """What is used of uvicorn's request and response, of which `send` is a method."""

    transport: Any
    flow: _Flow
    disconnected: bool
    chunked_encoding: bool | None
    expected_content_length: int

    async def send(self, message: Message) -> None:
        """ASGI's."""
        ...


def with_zero_copy(app: ASGIApp) -> ASGIApp:
    """The app, outermost, with the extension in `scope["extensions"]` where it can be had.

    A message is `{"type": EXTENSION, "file": descriptor, "offset": first byte, "count": bytes, "more_body": whether
    more comes}`; the response must have a `Content-Length`. Other bytes may be sent between two of them.
    """

    async def offering(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _exchange(send) if scope["type"] == "http" else None
        if exchange is None:
            await app(scope, receive, send)
            return
        scope["extensions"] = {**(scope.get("extensions") or {}), EXTENSION: {}}

        async def extended(message: Message) -> None:
            if message["type"] == EXTENSION:
                await _send_file(exchange, message["file"], message["offset"], message["count"])
                message = {"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)}
            await exchange.send(message)

        await app(scope, receive, extended)

    return offering


def _exchange(send: Send) -> _Exchange | None:
    """What `send` belongs to, when everything is there that is needed."""
    found: Any = getattr(send, "__self__", None)
    transport = getattr(found, "transport", None)
    needed = ("flow", "disconnected", "chunked_encoding", "expected_content_length")
    if not hasattr(os, "sendfile") or transport is None or not all(hasattr(found, name) for name in needed):
        return None
    if transport.get_extra_info("sslcontext") is not None or transport.get_extra_info("socket") is None:
        return None
    exchange: _Exchange = found
    return exchange


async def _send_file(exchange: _Exchange, descriptor: int, offset: int, count: int) -> None:
    """Send bytes of a file; when the client is gone the rest counts as sent, as it does for bytes that are written.

    Raises:
        RuntimeError: the response has no length, or not that many bytes are left of it.
        OSError: the file ends before.
    """
    transport = exchange.transport
    if exchange.chunked_encoding is not False or count > exchange.expected_content_length:
        raise RuntimeError("a file is sent with a Content-Length, and within it")
    stop = offset + count
    if not _is_gone(exchange):
        transport.set_write_buffer_limits(high=0)  # writing is paused until the very last byte is out
    try:
        while offset < stop:
            if exchange.flow.write_paused:
                await exchange.flow.drain()
            if _is_gone(exchange):
                exchange.expected_content_length -= stop - offset
                return
            n_sent = _sent(transport, descriptor, offset, stop - offset)
            if n_sent:
                exchange.expected_content_length -= n_sent
            else:
                page = os.pread(descriptor, min(PAGE_BYTES, stop - offset), offset)
                if not page:
                    raise OSError(f"the file ends at {offset}, before {stop}")
                await exchange.send({"type": "http.response.body", "body": page, "more_body": True})
                n_sent = len(page)
            offset += n_sent
    finally:
        if not _is_gone(exchange):
            transport.set_write_buffer_limits()


def _is_gone(exchange: _Exchange) -> bool:
    """Whether nothing can be sent any more; a transport that is closed must not even be asked."""
    return exchange.disconnected or bool(exchange.transport.is_closing())


def _sent(transport: Any, descriptor: int, offset: int, count: int) -> int:
    """How many bytes the kernel took; 0 when the socket is full, the file has ended, or the client is gone."""
    if transport.get_write_buffer_size():
        return 0
    try:
        return os.sendfile(transport.get_extra_info("socket").fileno(), descriptor, offset, count)
    except OSError:  # what is written next meets the same, and the transport knows what to do about it
        return 0
