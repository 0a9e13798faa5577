"""`inn edge`: a node of a fleet, in the foreground, until SIGINT or SIGTERM."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from service.commands.arguments import BatchOption, budgets, check_name, takes
from service.commands.http_server import run_http_server
from service.contract.sizes import LARGEST_THREADS, LARGEST_VALUE, QUALITIES, UNITS, Budget, Unit
from service.ground.extras import require
from service.terminal import CommandError, reported_errors

if TYPE_CHECKING:
    from service.ground.errors import ServiceError

ENVIRONMENT_PREFIX = "INN_EDGE"
"""Every option is an environment variable, too, by its name in capitals: `INN_EDGE_LATENCY_MS`."""

LOG_LEVELS = ("debug", "info", "warning", "error")
MAX_TOKEN_FILE_BYTES = 4096

_LABEL = re.compile(r"([^=\s]{1,64})=([^=]{0,64})")


@reported_errors()
@takes(given=budgets)
def edge(
    hub: Annotated[str, typer.Option(metavar="URL", help="Address of the hub.", show_default=False)],
    node: Annotated[str, typer.Option(metavar="NAME", help="Name of this node.", show_default=False)],
    model: Annotated[str, typer.Option(metavar="M", help="Model to serve.", show_default=False)],
    given: dict[Unit, float],
    batch: BatchOption = 1,
    threads: Annotated[int, typer.Option(min=1, max=LARGEST_THREADS, help="Threads of a run, measured or served.")] = 1,
    store: Annotated[Path, typer.Option(metavar="DIR", help="Folder of artifacts and trusted state.")] = Path(
        "edge-store"
    ),
    host: Annotated[str, typer.Option(metavar="H", help="Address to listen on; loopback by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="P", min=0, max=65535, help="Port; 0 takes a free one.")] = 8100,
    token: Annotated[
        str | None,
        typer.Option(metavar="T", help="Enrolment token, needed once: inn fleet token.", show_default=False),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="F", help="File that holds it.", show_default=False)
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="k=v", help="Label for rollouts; may be given several times.")
    ] = None,
    quality: Annotated[str | None, typer.Option(help=f"How weights are made: {', '.join(QUALITIES)}.")] = None,
    poll_seconds: Annotated[
        float,
        typer.Option(
            min=1.0,
            max=60.0,
            help="How long a question to the hub may wait for news, and how often the node reports at least.",
        ),
    ] = 30.0,
    log_level: Annotated[str, typer.Option(help=f"One of {', '.join(LOG_LEVELS)}.")] = "info",
) -> None:
    """Serve one size of a model from this machine, and keep it at what the hub wants.

    Serves from disk when the hub is away. Prints the address on stdout once requests are answered.
    """
    require(("onnxruntime",), extra="edge")
    from service.node.settings import EdgeSettings

    settings = EdgeSettings(
        hub=_checked_url(hub),
        node=check_name(node, "change --node"),
        model=check_name(model, "change --model"),
        budget=_budget(given, batch=batch, threads=threads),
        store=store,
        token=_token(token, token_file, store),
        quality=_one_of("--quality", quality, QUALITIES) if quality is not None else None,
        labels=_labels(label or ()),
        threads=threads,
        poll_seconds=poll_seconds,
    )
    from service.ground.logs import configure_logs
    from service.node.app import create_app

    configure_logs(_one_of("--log-level", log_level, LOG_LEVELS))
    if log_level != "debug":  # a line for every request would wear out the flash of a small device
        for name in ("httpx", "service.access"):
            logging.getLogger(name).setLevel(logging.WARNING)
    failures: list[ServiceError] = []
    run_http_server(
        lambda stop: create_app(settings, ended=lambda error: _end(failures, error, stop)),
        host=host,
        port=port,
        what="node",
    )
    if failures:
        raise failures[0]


def _end(failures: list[ServiceError], error: ServiceError, stop: Callable[[], None]) -> None:
    failures.append(error)
    stop()


def _budget(given: dict[Unit, float], *, batch: int, threads: int) -> Budget:
    options = {unit: f"--{unit.replace('_', '-')}" for unit in UNITS}
    if len(given) != 1:
        found = f"{' and '.join(options[unit] for unit in given)} are given" if given else "none is given"
        raise CommandError(
            "invalid-budget", f"a node has one budget, {found}; give one of {', '.join(options.values())}"
        )
    ((unit, value),) = given.items()
    if not (math.isfinite(value) and 0 < value <= LARGEST_VALUE):
        raise CommandError("invalid-budget", f"{options[unit]} is {value:g}; give a number above 0, up to 2^53")
    return Budget(unit, value, batch=batch, threads=threads)


def _token(token: str | None, file: Path | None, store: Path) -> str | None:
    """The token, given as such or in a file; a node that is enrolled does without its file."""
    if token is not None and file is not None:
        raise CommandError("invalid-token", "--token and --token-file are both given; give one")
    if file is None:
        return token
    from service.node.trust.store import FOLDER, STATE_FILE

    try:
        with file.open("rb") as stream:
            return stream.read(MAX_TOKEN_FILE_BYTES).decode("ascii", "replace").strip()
    except OSError as exc:
        if (store / FOLDER / STATE_FILE).exists():
            return None
        raise CommandError(
            "invalid-token", f"the token file '{file}' cannot be read ({exc.strerror}); write a token into it"
        ) from exc


def _labels(given: Sequence[str]) -> dict[str, str]:
    labels = {}
    for text in given:
        found = _LABEL.fullmatch(text)
        if found is None:
            raise typer.BadParameter(f"label '{text[:80]}' is not allowed; write KEY=VALUE, such as site=berlin")
        labels[found.group(1)] = found.group(2)
    return labels


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise typer.BadParameter(f"'{url[:80]}' is no address of a hub; one looks like http://hub.example:8000")
    return url


def _one_of(option: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise typer.BadParameter(f"{option} '{value[:40]}' is not known; use one of {', '.join(allowed)}")
    return value
