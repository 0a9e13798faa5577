"""The command `inn`: one verb each; a command parses, calls one function and prints.

Every heavy import happens inside a command, so that `inn --help` is instant and works in an environment that lacks an
extra. Exit codes: 0 done, 1 an error of ours (`error[code]: message` on stderr), 2 misuse.
"""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from service.commands.curve import curve
from service.commands.edge import ENVIRONMENT_PREFIX, edge
from service.commands.export import export
from service.commands.fleet.keys import app as keys
from service.commands.fleet.nodes import app as fleet
from service.commands.import_network import import_network
from service.commands.inspect import inspect
from service.commands.serve import serve
from service.commands.train import train
from service.commands.verify import verify

app = typer.Typer(
    name="inn",
    help="Any size of a trained network, as ONNX, on request.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("import")(import_network)
app.command("inspect")(inspect)
app.command("curve")(curve)
app.command("export")(export)
app.command("train")(train)
app.command("serve")(serve)
app.command("edge", context_settings={"auto_envvar_prefix": ENVIRONMENT_PREFIX})(edge)
app.command("verify")(verify)
app.add_typer(fleet, name="fleet")
app.add_typer(keys, name="keys")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"inn {metadata.version('inn-service')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Any size of a trained network, as ONNX, on request."""


def main() -> None:
    """Entry point of the console script `inn`."""
    app()


if __name__ == "__main__":
    main()
