"""`inn serve`: the hub, in the foreground, until SIGINT or SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.arguments import check_input_file
from service.errors import ServiceError
from service.extras import HUB_MODULES, is_installed, missing_extra
from service.terminal import CommandError, note, reported_errors

if TYPE_CHECKING:
    import socket

    from starlette.types import Receive, Scope, Send

    from service.settings import ApiSettings

KEEP_ALIVE_SECONDS = 75
"""Stock clients keep connections open for about a minute; closing under them looks like a crash of the hub."""

SHUTDOWN_SECONDS = 10
"""How long open responses (event streams, downloads) may go on after the hub was told to stop."""


@reported_errors()
def serve(
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of checkpoints and artifacts; else INN_STORE, else ./store."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="H", help="Address to listen on; else INN_HOST, else loopback only.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="P", min=0, max=65535, help="Port; 0 takes a free one; else INN_PORT, else 8000."),
    ] = None,
    imports: Annotated[
        list[Path] | None,
        typer.Option(
            "--import", metavar="N.inn", help="Checkpoint to serve; may be given several times; else the demo's."
        ),
    ] = None,
) -> None:
    """Serve exports and inference over HTTP; prints the address on stdout once requests are answered."""
    checkpoints = [check_input_file(path, "checkpoint") for path in imports or ()]
    given = {"store": store, "host": host, "port": port}
    settings = _settings({name: value for name, value in given.items() if value is not None})
    for module in HUB_MODULES:
        if not is_installed(module):
            raise missing_extra(module)
    import uvicorn

    from service.api.app import create_app
    from service.logs import configure_logs

    configure_logs(settings.log_level)
    app = create_app(settings, imports=checkpoints)
    failures: list[Exception] = []

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except ServiceError as exc:
            failures.append(exc)
            raise

    class AnnouncingServer(uvicorn.Server):
        """Says where it listens as soon as it does: scripts that start a hub read the line and go on."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(address, flush=True)

    config = uvicorn.Config(
        watched,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
    )
    listening = _bind(settings)
    address = _url(listening)
    # uvicorn stops gracefully on these signals and then raises them again for whoever set a handler before.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    server = AnnouncingServer(config)
    # It leaves by SystemExit: from `_stop` after a signal, from uvicorn when the start failed.
    with contextlib.suppress(SystemExit):
        server.run(sockets=[listening])
    if failures and not server.started:
        raise failures[0]
    if not server.started:
        raise CommandError("start-failed", "the hub did not start; the log above says why")
    note("stopped")


def _settings(given: dict[str, Any]) -> ApiSettings:
    from pydantic import ValidationError

    from service.settings import ApiSettings

    try:
        return ApiSettings(**given)
    except ValidationError as exc:
        problems = "; ".join(
            f"INN_{'__'.join(str(part) for part in error['loc']).upper()}: {error['msg']}" for error in exc.errors()
        )
        raise CommandError("invalid-settings", f"{problems}; correct the environment variable or unset it") from exc


def _bind(settings: ApiSettings) -> socket.socket:
    import socket

    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Only with the protocol named does asyncio turn off Nagle's algorithm, which costs 40 ms an answer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as exc:
        listening.close()
        raise CommandError(
            "address-unavailable",
            f"cannot listen on {settings.host} port {settings.port} ({exc.strerror or exc}); "
            "choose another with --port, or 0 for a free one",
        ) from exc
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(0)
