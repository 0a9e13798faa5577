"""What commands need to talk to a running hub as an administrator: options, requests, errors in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.ground.names import is_name
from service.terminal import CommandError

if TYPE_CHECKING:
    import httpx

DEFAULT_HUB = "http://127.0.0.1:8000"
ADMIN_KEY_FILE = Path("fleet") / "admin-key"
"""Where a store keeps the key of administrators."""

TIMEOUT_SECONDS = 30.0


class Hub:
    """A hub, as an administrator talks to it.

    Args:
        url: its address.
        find_key: gives the admin key, once it is needed.
    """

    def __init__(self, url: str, find_key: Callable[[], str]) -> None:
        self._url = url.rstrip("/")
        self._find_key = find_key

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        wait_seconds: float = 0.0,
    ) -> Any:
        """Sends a request.

        Args:
            method, path: of the request.
            body: JSON, None for no body.
            query: parameters.
            headers: besides the key.
            wait_seconds: how long the hub was asked to wait.

        Returns:
            The JSON of the answer, None when it has none.

        Raises:
            CommandError: there is no address or no key, or the hub cannot be reached, or it answers with a problem,
                whose code it has.
        """
        import httpx

        if not self._url.startswith(("http://", "https://")):
            raise CommandError("invalid-address", f"'{self._url}' is no address of a hub; one is {DEFAULT_HUB}")
        key = self._find_key()
        try:
            # A connection for each request: commands send one, or one a minute.
            with httpx.Client(timeout=TIMEOUT_SECONDS + wait_seconds) as client:
                answer = client.request(
                    method,
                    f"{self._url}{path}",
                    json=body,
                    params=list(query),
                    headers={**(headers or {}), "authorization": f"Bearer {key}"},
                )
        except httpx.TransportError as exc:
            raise CommandError(
                "hub-unreachable",
                f"no answer from the hub at {self._url} ({str(exc)[:200] or type(exc).__name__}); "
                "start it with inn serve, or name its address with --hub",
            ) from exc
        except (httpx.InvalidURL, UnicodeError) as exc:
            raise CommandError(
                "invalid-address", f"'{self._url}' is no address of a hub; one is {DEFAULT_HUB}"
            ) from exc
        if not answer.is_success:
            raise _problem(answer, self._url)
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as exc:
            raise CommandError("no-hub", f"what answers at {self._url} is no hub; check the address") from exc


def open_hub(
    hub: Annotated[str, typer.Option(metavar="URL", envvar="INN_HUB", help="Address of the hub.")] = DEFAULT_HUB,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--admin-key-file",
            metavar="FILE",
            envvar="INN_ADMIN_KEY_FILE",
            help="File with the admin key; else INN_ADMIN_KEY, else fleet/admin-key of --store.",
            show_default=False,
        ),
    ] = None,
    # Only for the environment variable: a key on a command line could be seen by everyone on the machine.
    key: Annotated[str | None, typer.Option("--admin-key", envvar="INN_ADMIN_KEY", hidden=True)] = None,
    store: Annotated[
        Path, typer.Option(metavar="DIR", envvar="INN_STORE", help="Store of the hub, when it is on this machine.")
    ] = Path("store"),
) -> Hub:
    """The hub at an address (for `takes`)."""
    return Hub(hub, lambda: _admin_key(key_file, key, store))


def _admin_key(key_file: Path | None, key: str | None, store: Path) -> str:
    """The admin key from the first place that has one.

    Raises:
        CommandError: there is none, or it is none.
    """
    path = key_file or (store / ADMIN_KEY_FILE if key is None else None)
    if path is not None:
        try:
            key = path.read_text(encoding="ascii").strip()
        except FileNotFoundError as exc:
            raise CommandError(
                "admin-key-missing",
                f"there is no admin key in '{path}'; name its file with --admin-key-file, set INN_ADMIN_KEY, or name "
                "the store of the hub with --store",
            ) from exc
        except UnicodeDecodeError as exc:
            raise CommandError("invalid-admin-key", f"'{path}' holds no admin key") from exc
    if not key or not key.isascii() or not key.isprintable():
        raise CommandError("invalid-admin-key", "the admin key is empty or not printable ASCII")
    return key


def check_node(name: str) -> str:
    """The name of a node, when it is one.

    Raises:
        typer.BadParameter: it is none.
    """
    if not is_name(name):
        raise typer.BadParameter(
            f"'{name}' names no node: 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return name


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """Labels given as KEY=VALUE.

    Raises:
        typer.BadParameter: one is not.
    """
    for text in texts:
        if "=" not in text:
            raise typer.BadParameter(f"'{text}' is no label; write KEY=VALUE")
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def _problem(answer: httpx.Response, url: str) -> CommandError:
    try:
        problem = answer.json()
        code = str(problem["type"]).rpartition("/")[2]
        return CommandError(code, str(problem.get("detail") or problem["title"]))
    except (ValueError, KeyError, TypeError):
        return CommandError("no-hub", f"{url} answered {answer.status_code}, but not as a hub does; check the address")
