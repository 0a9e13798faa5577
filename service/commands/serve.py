"""`inn serve`: the hub, in the foreground, until SIGINT or SIGTERM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.arguments import check_input_file
from service.commands.http_server import run_http_server
from service.ground.extras import HUB_MODULES, require
from service.terminal import CommandError, reported_errors

if TYPE_CHECKING:
    from service.ground.settings import ApiSettings


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
    require(HUB_MODULES, extra="hub")
    from service.ground.logs import configure_logs
    from service.hub.app import create_app

    configure_logs(settings.log_level)
    app = create_app(settings, imports=checkpoints)
    run_http_server(
        lambda stop: app,
        host=settings.host,
        port=settings.port,
        what="hub",
        leaving=lambda: app.state.hub.fleet.dismiss(),
    )


def _settings(given: dict[str, Any]) -> ApiSettings:
    from pydantic import ValidationError

    from service.ground.settings import ApiSettings

    try:
        return ApiSettings(**given)
    except ValidationError as exc:
        problems = "; ".join(
            f"INN_{'__'.join(str(part) for part in error['loc']).upper()}: {error['msg']}" for error in exc.errors()
        )
        raise CommandError("invalid-settings", f"{problems}; correct the environment variable or unset it") from exc
