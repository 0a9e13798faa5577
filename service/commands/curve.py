"""`inn curve`: size against quality, as a table, JSON or a plot."""

from __future__ import annotations

import io
from collections.abc import Mapping
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
    read_arrays,
)
from service.ground.errors import CoreError
from service.ground.files import write_file
from service.terminal import note, print_result, print_table, progress_reports, reported_errors

PLOT_ENDINGS = (".png", ".svg", ".pdf")


@reported_errors()
def curve(
    checkpoint: CheckpointArgument,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="E.npz", help="One array per graph input and, for accuracy, labels; else the checkpoint's samples."
        ),
    ] = None,
    params: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Parameter counts to measure; ten over the range when left out.")
    ] = None,
    quality: QualityOption = None,
    quadrature: QuadratureOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
    plot: Annotated[Path | None, typer.Option(metavar="F.png", help="Also draw the curve into this file.")] = None,
) -> None:
    """Measure parameters, MACs and bytes against accuracy and agreement with the full network."""
    targets = None if params is None else _parse_counts(params)
    check_input_file(checkpoint, "checkpoint")
    if plot is not None:
        check_output_file(plot)
    arrays = None if data is None else read_arrays(data, "evaluation file")
    from service.builds.worker import in_process as local

    with progress_reports("curve") as progress:
        result = local.size_quality_curve(
            checkpoint,
            data=arrays,
            params=targets,
            quality=quality,
            quadrature=quadrature,
            device=device,
            progress=progress,
        )
        if plot is not None:
            draw(result, plot)
    if plot is not None:
        note(f"wrote {plot}")
    print_result(result, print_curve, json=json)


def _parse_counts(text: str) -> list[int]:
    counts = []
    for part in text.split(","):
        try:
            counts.append(int(part))
        except ValueError:
            raise typer.BadParameter(
                f"--params {text}: '{part}' is no whole number; write N,N,… such as 50000,100000"
            ) from None
    return counts


def print_curve(result: Mapping[str, Any]) -> None:
    """Write a curve to stdout as a table, the full network last."""
    full = result["full"]
    rows = [
        (
            f"{point['params']:,}",
            f"{point['params'] / full['params']:.1%}",
            f"{point['macs']:,}",
            f"{point['bytes']:,}",
            _share(point.get("accuracy")),
            _share(point.get("agreement")),
            f"{point['seconds']:.2f}" if point.get("seconds") is not None else "-",
        )
        for point in (*result["points"], full)
    ]
    print_table(("params", "of full", "macs", "bytes", "accuracy", "agreement", "seconds"), rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def draw(measured: Mapping[str, Any], path: Path) -> None:
    """Draw a curve: accuracy (where known) and agreement in percent over parameters.

    Args:
        measured: what `inn_core.exporting.curve` returned.
        path: the picture to write; its ending names the format (`.png`, `.svg`, `.pdf`).

    Raises:
        CoreError: matplotlib is not installed (`missing-package`), or the ending names no format
            (`invalid-evaluation`).
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise CoreError(
            "missing-package",
            "package 'matplotlib' is needed to draw a curve and is not installed; run: pip install matplotlib",
            {"package": "matplotlib"},
        ) from exc
    if path.suffix not in PLOT_ENDINGS:
        raise CoreError(
            "invalid-evaluation",
            f"a plot cannot be written as '{path.suffix}' ({path}); use one of: {', '.join(PLOT_ENDINGS)}",
            {},
        )
    points = sorted([*measured["points"], measured["full"]], key=lambda point: int(point["params"]))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in ("accuracy", "agreement"):
        drawn = [(point["params"], 100 * point[name]) for point in points if point[name] is not None]
        if drawn:
            label = "accuracy" if name == "accuracy" else "agreement with the full network"
            axes.plot(*zip(*drawn, strict=True), marker="o", label=label)
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("% of samples")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=150)
    write_file(path, buffer.getvalue())
