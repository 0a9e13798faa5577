"""What recipes share as programs: errors as one line, and the import of a network with a progress bar."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from inn_core.arrays import Array
from inn_core.errors import InnError


def reported(run: Callable[[argparse.Namespace, Console], None], options: argparse.Namespace) -> int:
    """Run a recipe; an error of ours is a red line on stderr. Returns the exit code."""
    console = Console(stderr=True)
    try:
        run(options, console)
    except InnError as error:
        console.print(f"{error.code}: {error.message}", style="red", markup=False, highlight=False)
        return 1
    return 0


def import_written(source: Path, samples: Mapping[str, Array], *, name: str, console: Console) -> None:
    """Import an ONNX file that a recipe wrote, and write `<name>.inn` beside it."""
    from inn_core.checkpoint.storage import save_checkpoint
    from inn_core.importing.pipeline import import_network

    with Progress(console=console) as bar:
        task = bar.add_task("import", total=1.0)
        network = import_network(
            source,
            samples,
            name=name,
            progress=lambda stage, fraction: bar.update(task, description=stage, completed=fraction),
        )
    path = source.with_name(f"{name}.inn")
    print(f"{path} {save_checkpoint(network, path)}")
