"""Options that commands share: they stand where the value stands, keep their checks, and may be variables as well."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from service.cli import app
from service.commands.arguments import budgets, takes

EDGE_OPTIONS = [
    *("hub", "node", "model", "params", "macs", "bytes", "latency_ms", "memory_bytes", "batch", "threads", "store"),
    *("host", "port", "token", "token_file", "label", "quality", "poll_seconds", "log_level"),
]


def box(width: int, height: Annotated[int, typer.Option(min=1)] = 2) -> tuple[int, int]:
    if width > 100:
        raise typer.BadParameter("too wide")
    return width, height


@takes(size=box)
def room(size: tuple[int, int], name: str = "hall") -> dict[str, object]:
    return {"size": size, "name": name}


def program() -> typer.Typer:
    made = typer.Typer()

    @made.command()
    @takes(place=room, given=budgets)
    def print_all(first: str, place: dict[str, object], *, given: dict[str, float], last: int = 7) -> None:
        typer.echo(f"{first} {place} {given} {last}")

    return made


def test_values_are_made_of_the_options_of_their_functions() -> None:
    given = ["one", "3", "--height", "5", "--latency-ms", "2.5", "--bytes", "9"]
    done = CliRunner().invoke(program(), given)
    assert done.exit_code == 0, done.output
    assert done.stdout == "one {'size': (3, 5), 'name': 'hall'} {'bytes': 9, 'latency_ms': 2.5} 7\n"


@pytest.mark.parametrize(
    ("given", "text"),
    [(["one", "3", "--height", "0"], "--height"), (["one", "101"], "too wide"), (["one"], "Missing argument")],
)
def test_misuse_of_a_shared_option_is_misuse_of_the_command(given: list[str], text: str) -> None:
    done = CliRunner().invoke(program(), given)
    assert done.exit_code == 2
    assert text in done.stderr


def test_every_option_of_a_node_is_an_environment_variable() -> None:
    done = CliRunner().invoke(app, ["edge", "--help"], env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
    for name in EDGE_OPTIONS:
        assert f"env var: INN_EDGE_{name.upper()}]" in done.stdout
        assert f"--{name.replace('_', '-')} " in done.stdout


@pytest.mark.parametrize("name", ["PARAMS", "BYTES", "LATENCY_MS"])
def test_a_budget_may_come_from_the_environment(name: str) -> None:
    variables = {f"INN_EDGE_{name}": "5", "INN_EDGE_HUB": "http://127.0.0.1:1", "INN_EDGE_MODEL": "toy"}
    done = CliRunner().invoke(app, ["edge", "--node", "n", "--macs", "7"], env=variables)
    assert done.exit_code == 1
    assert f"--{name.lower().replace('_', '-')}" in done.stderr
    assert "--macs" in done.stderr
    assert "are given" in done.stderr
