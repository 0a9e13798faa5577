"""`inn import`: a trained network and samples in, one checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.arguments import (
    DeviceOption,
    JsonOption,
    check_input_file,
    check_name,
    check_output_file,
    read_arrays,
)
from service.commands.inspect import print_description
from service.terminal import note, print_result, progress_reports, reported_errors


@reported_errors()
def import_network(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="An .onnx file, or package.module:factory that returns (torch module, example inputs).",
            show_default=False,
        ),
    ],
    calibration: Annotated[
        Path,
        typer.Option(
            metavar="C.npz", help="One array per graph input, samples first; others, such as labels, are kept out."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="N.inn", help="Checkpoint to write.")],
    name: Annotated[
        str | None, typer.Option(metavar="N", help="Name of the checkpoint; that of the output file when left out.")
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(metavar="TENSOR:AXIS", help="A weight axis that keeps its size; may be given several times."),
    ] = None,
    statistics_only: Annotated[
        bool,
        typer.Option(
            "--statistics-only", help="Keep no samples in the checkpoint; quality refined is not offered then."
        ),
    ] = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Turn a trained network into a checkpoint that gives any size of it."""
    checked_name = (
        check_name(output.stem, "give one with --name") if name is None else check_name(name, "choose another")
    )
    frozen = [_parse_freeze(text) for text in freeze or ()]
    check_output_file(output)
    if ":" not in source or source.endswith(".onnx"):
        check_input_file(Path(source), "network")
    arrays = read_arrays(calibration, "calibration file")
    from service.builds.worker import in_process as local

    with progress_reports("import") as progress:
        description = local.import_checkpoint(
            source,
            arrays,
            name=checked_name,
            output=output,
            freeze=frozen,
            statistics_only=statistics_only,
            device=device,
            progress=progress,
        )
    note(f"wrote {output} ({description['file_bytes']:,} bytes)")
    print_result(description, print_description, json=json)


def _parse_freeze(text: str) -> tuple[str, int]:
    tensor, colon, axis = text.rpartition(":")
    if not colon or not tensor or not axis.isdecimal():
        raise typer.BadParameter(f"--freeze {text} is not TENSOR:AXIS, such as conv1.weight:0")
    return tensor, int(axis)
