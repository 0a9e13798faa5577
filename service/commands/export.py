"""`inn export`: one size of a checkpoint as an ONNX file, with its manifest beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.arguments import (
    CheckpointArgument,
    DeviceOption,
    JsonOption,
    QuadratureOption,
    QualityOption,
    check_input_file,
    check_output_file,
)
from service.commands.manifest_file import manifest_path, write_manifest
from service.contract.sizes import CountedUnit
from service.terminal import note, print_result, print_table, progress_reports, reported_errors


@reported_errors()
def export(
    checkpoint: CheckpointArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="OUT.onnx", help="Artifact to write; the manifest goes to OUT.onnx.json."
        ),
    ],
    params: Annotated[int | None, typer.Option(metavar="N", help="At most N parameters.")] = None,
    macs: Annotated[int | None, typer.Option(metavar="N", help="At most N multiply-accumulates a sample.")] = None,
    size_bytes: Annotated[
        int | None, typer.Option("--bytes", metavar="N", help="At most N bytes of ONNX file.")
    ] = None,
    quality: QualityOption = None,
    quadrature: QuadratureOption = None,
    multiple_of: Annotated[
        int, typer.Option(metavar="N", help="Make every group size a multiple of N, such as 8.")
    ] = 1,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Make one artifact that meets a budget: give exactly one of --params, --macs and --bytes."""
    unit, value = _one_budget(params=params, macs=macs, size_bytes=size_bytes)
    check_input_file(checkpoint, "checkpoint")
    check_output_file(output)
    from service.builds.worker import in_process as local

    with progress_reports("export") as progress:
        manifest = local.export(
            checkpoint,
            unit=unit,
            value=value,
            output=output,
            quality=quality,
            quadrature=quadrature,
            multiple_of=multiple_of,
            device=device,
            progress=progress,
        )
    write_manifest(manifest, output)
    note(f"wrote {output} and {manifest_path(output).name}")
    print_result(manifest, lambda shown: print_table(("", "value"), _rows(shown)), json=json)


def _one_budget(*, params: int | None, macs: int | None, size_bytes: int | None) -> tuple[CountedUnit, int]:
    units: tuple[tuple[CountedUnit, int | None], ...] = (("params", params), ("macs", macs), ("bytes", size_bytes))
    given = [(unit, value) for unit, value in units if value is not None]
    if len(given) != 1:
        raise typer.BadParameter(f"give exactly one of --params, --macs and --bytes; {len(given)} were given")
    return given[0]


def _rows(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    budget = manifest["budget"]
    rows = [
        ("model", str(manifest["model"])),
        ("asked for", f"at most {budget['value']:,} {budget['unit']}"),
        ("params", f"{manifest['params']:,}"),
        ("macs", f"{manifest['macs']:,}"),
        ("bytes", f"{manifest['bytes']:,}"),
        ("quality", str(manifest["quality"])),
        ("parity", f"{manifest['parity']:.1e} (largest relative difference of ONNX Runtime from PyTorch)"),
    ]
    if manifest.get("agreement") is not None:
        rows.append(("agreement", f"{manifest['agreement']:.2%} with the full network"))
    if manifest.get("full_size"):
        rows.append(("full size", "yes: the budget has room for the whole network"))
    rows.append(("digest", str(manifest["digest"])))
    return rows
