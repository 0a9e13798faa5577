"""Runs an app over HTTP in the foreground until SIGINT or SIGTERM, as `inn serve` and `inn edge` do."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from service.ground.errors import ServiceError
from service.terminal import CommandError, note

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

KEEP_ALIVE_SECONDS = 75
"""Stock clients keep connections open for about a minute; closing under them looks like a crash of the server."""

SHUTDOWN_SECONDS = 10
"""How long open responses (event streams, downloads) may go on after the server was told to stop."""


def run_http_server(
    make_app: Callable[[Callable[[], None]], ASGIApp],
    *,
    host: str,
    port: int,
    what: str,
    leaving: Callable[[], None] = lambda: None,
) -> None:
    """Serve until told to stop; prints the address on stdout once requests are answered.

    Args:
        make_app: gives the app; it is given a function that stops the server.
        host, port: where to listen; port 0 takes a free one.
        what: is served, such as "hub", for messages.
        leaving: called when the server was told to stop, before it waits for open responses.

    Raises:
        ServiceError: what the app's lifespan raised at the start.
        CommandError: `address-unavailable` or `start-failed`.
    """
    import uvicorn

    failures: list[Exception] = []

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except ServiceError as exc:
            failures.append(exc)
            raise

    class AnnouncingServer(uvicorn.Server):
        """Says where it listens as soon as it does: scripts that start a server read the line and go on."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(address, flush=True)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            leaving()
            await super().shutdown(sockets)

    def stop() -> None:
        server.should_exit = True

    listening = _bind(host, port)
    address = _url(listening)
    config = uvicorn.Config(
        watched,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
    )
    server = AnnouncingServer(config)
    app = make_app(stop)
    # uvicorn stops gracefully on these signals and then raises them again for whoever set a handler before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    # It leaves by SystemExit: from `_leave` after a signal, from uvicorn when the start failed.
    with contextlib.suppress(SystemExit):
        server.run(sockets=[listening])
    if failures and not server.started:
        raise failures[0]
    if not server.started:
        raise CommandError("start-failed", f"the {what} did not start; the log above says why")
    note("stopped")


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only with the protocol named does asyncio turn off Nagle's algorithm, which costs 40 ms an answer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as exc:
        listening.close()
        raise CommandError(
            "address-unavailable",
            f"cannot listen on {host} port {port} ({exc.strerror or exc}); "
            "choose another with --port, or 0 for a free one",
        ) from exc
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)
