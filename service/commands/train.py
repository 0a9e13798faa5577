"""`inn train`: a network and data in, a checkpoint out that was trained in all its sizes, and its curve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from service.commands.arguments import DeviceOption, JsonOption, check_input_file, check_output_file, read_arrays
from service.commands.curve import print_curve
from service.commands.manifest_file import write_json
from service.terminal import Report, note, print_error, print_result, progress_reports, reported_errors

CHECKPOINT_ENDING = ".inn"
LARGEST_COUNT = 1_000_000


@reported_errors()
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="fashion_resnet, package.module:function that returns a Recipe, or an .inn file with --data.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.inn", help="Checkpoint to write.")],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="D.npz", help="Training samples for an .inn file: one array per graph input, and labels if any."
        ),
    ] = None,
    evaluate: Annotated[
        Path | None,
        typer.Option(
            metavar="E.npz", help="Samples and labels for the final curve; else those of the recipe or the checkpoint."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=LARGEST_COUNT, help="Passes over the data.", show_default=False),
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Read no labels: the full network teaches every size.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(metavar="S", min=0, help="Of the order of the data and the sizes.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1024, help="Threads of PyTorch.", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the state of the run is kept until it ends; OUT.inn.state by default."
        ),
    ] = None,
    curve: Annotated[Path | None, typer.Option(metavar="C.json", help="Also write the curve into this file.")] = None,
    json: JsonOption = False,
) -> None:
    """Train all sizes of a network at once. A run that was stopped goes on when the command is given again."""
    is_checkpoint = recipe.endswith(CHECKPOINT_ENDING)
    if is_checkpoint and data is None:
        raise typer.BadParameter(f"'{recipe}' is trained on samples; give them with --data D.npz")
    if not is_checkpoint and data is not None:
        raise typer.BadParameter(f"--data goes with an .inn file; recipe '{recipe}' brings its own data")
    check_output_file(output)
    kept = check_output_file(output.with_name(f"{output.name}.state") if state is None else state)
    if curve is not None:
        check_output_file(curve)
    if is_checkpoint:
        check_input_file(Path(recipe), "checkpoint")
    samples = None if data is None else read_arrays(data, "training file")
    evaluation = None if evaluate is None else read_arrays(evaluate, "evaluation file")
    from service.builds.worker import in_process as local

    try:
        with progress_reports("train") as progress:
            result = local.train_sizes(
                recipe,
                output=output,
                data=samples,
                evaluation=evaluation,
                epochs=epochs,
                labelled=not unlabelled,
                seed=seed,
                threads=threads,
                device=device,
                state=kept,
                progress=progress if sys.stderr.isatty() else _without_epochs(progress),
                note=note,
            )
    except KeyboardInterrupt:
        way_on = f"the state is in '{kept}', and the same command goes on from there"
        rest = way_on if kept.is_file() else "nothing half-written is left"
        print_error("interrupted", f"stopped from the keyboard; {rest}")
        raise typer.Exit(130) from None
    if curve is not None:
        write_json(result["curve"], curve)
        note(f"wrote {curve}")
    note(f"trained in {result['seconds']:,.0f} s, without the curve")
    note(f"wrote {output} ({result['file_bytes']:,} bytes, {result['checkpoint']})")
    print_result(result, lambda trained: print_curve(trained["curve"]), json=json)


def _without_epochs(progress: Report) -> Report:
    """In a log an epoch is the one line that is written when it is done."""

    def report(stage: str, fraction: float) -> None:
        if not stage.startswith("epoch "):
            progress(stage, fraction)

    return report
