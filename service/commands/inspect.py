"""`inn inspect`: what a checkpoint holds and which sizes it gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from service.commands.arguments import CheckpointArgument, JsonOption, check_input_file
from service.terminal import print_result, print_table, reported_errors

SHOWN_PLACES = 3
"""Places of a group that the table lists before it says how many more there are; `--json` has them all."""


@reported_errors()
def inspect(checkpoint: CheckpointArgument, json: JsonOption = False) -> None:
    """Show groups, sizes, what is frozen and why, and the sizes that can be asked for."""
    check_input_file(checkpoint, "checkpoint")
    from service.builds.worker import in_process as local

    description = local.inspect_checkpoint(checkpoint)
    print_result(description, print_description, json=json)


def print_description(description: Mapping[str, Any]) -> None:
    """Print the description of a checkpoint as tables for people."""
    typer.echo(f"{description['name']}  {description['checkpoint']}  {description['file_bytes']:,} bytes")
    typer.echo(f"inputs   {_tensors(description['inputs'])}")
    typer.echo(f"outputs  {_tensors(description['outputs'])}")
    typer.echo(f"quality  {', '.join(description['qualities'])}")
    for unit, feasible in description["feasible_by_unit"].items():
        typer.echo(f"{unit:<8} {feasible['min']:,} to {feasible['max']:,}")
    typer.echo("")
    print_table(
        ("group", "size", "smallest", "occurs in"),
        [
            (group["name"], f"{group['size']:,}", f"{group['minimum']:,}", _places(group["places"]))
            for group in description["groups"]
        ],
        title=f"{len(description['groups'])} groups",
    )
    if description["frozen"]:
        typer.echo("")
        print_table(
            ("axis", "size", "reason"),
            [
                (f"{axis['tensor']}:{axis['axis']}", f"{axis['size']:,}", axis["reason"])
                for axis in description["frozen"]
            ],
            title="frozen axes",
        )


def _tensors(tensors: list[Mapping[str, Any]]) -> str:
    return ", ".join(f"{tensor['name']} {tensor['dtype']} {_shape(tensor['shape'])}" for tensor in tensors)


def _shape(shape: list[Any] | None) -> str:
    if shape is None:
        return "of any shape"
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"


def _places(places: list[Any]) -> str:
    shown = [f"{tensor}:{axis}" for tensor, axis in places[:SHOWN_PLACES]]
    more = len(places) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
