"""Train the small EDSR on photographs and make its checkpoint: `python -m benchmarks.super_resolution.make_edsr`.

Writes into the output folder:
    edsr.safetensors  the trained weights of `benchmarks.super_resolution.edsr.SmallEdsr`
    edsr.onnx         the same network for any height and width; input "image", output "upscaled"
    calibration.npz   `image`: small patches of the calibration photographs, float32 RGB in [0, 1]
    edsr.inn          the integral network (not with `--skip-import`)
    training.pt       the last saved state; a run that was stopped continues from it

The photographs come from packages, none is shipped (see `benchmarks.super_resolution.photographs`): training and
calibration need Debian's `mate-backgrounds` and `lomiri-wallpapers-16.04`. A few minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.super_resolution.edsr import SmallEdsr
from benchmarks.super_resolution.photographs import WALLPAPERS, patches, photographs
from benchmarks.super_resolution.training import PatchSchedule, train_upscaler_
from benchmarks.super_resolution.upscaling import INPUT, to_pixels, write_onnx, write_samples
from models.files import write_weights
from models.recipes.command import import_written, reported

NAME = "edsr"
CALIBRATION_PATCHES = 24  # of each photograph
CALIBRATION_SIDE = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write; returns the exit code."""
    options = _parser().parse_args(arguments)
    return reported(_run, options)


def calibration_patches(*, wallpapers: str | Path = WALLPAPERS, seed: int = 0) -> NDArray[np.float32]:
    """Small patches of the calibration photographs, shape `(n, 3, side, side)`, those of a photograph together.

    Raises:
        DatasetError: a photograph is not installed.
    """
    images = list(photographs("calibration", wallpapers=wallpapers).values())
    small, _ = patches(images, side=CALIBRATION_SIDE, per_image=CALIBRATION_PATCHES, seed=seed)
    return to_pixels(small)


def _run(options: argparse.Namespace, console: Console) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)
    images = list(photographs("training", wallpapers=options.wallpapers).values())
    samples = calibration_patches(wallpapers=options.wallpapers, seed=options.seed)
    schedule = PatchSchedule(seed=options.seed, steps=options.steps)
    torch.manual_seed(options.seed)
    module = SmallEdsr()
    console.print(f"training on {len(images)} photographs")
    started = time.monotonic()

    def report(step: int, loss: float) -> None:
        console.print(f"step {step}: loss {loss:.5f}, {time.monotonic() - started:.0f} s", highlight=False)

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=1.0)
        train_upscaler_(
            module,
            images,
            schedule=schedule,
            state_path=options.output / "training.pt",
            progress=lambda stage, fraction: bar.update(task, description=stage, completed=fraction),
            after_state=report,
        )
    write_weights(module, options.output / f"{NAME}.safetensors")
    write_onnx(module, options.output / f"{NAME}.onnx")
    write_samples(samples, options.output / "calibration.npz")
    if not options.skip_import:
        import_written(options.output / f"{NAME}.onnx", {INPUT: samples}, name=NAME, console=console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.super_resolution.make_edsr",
        description="Train the small EDSR and make its checkpoint.",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=PatchSchedule.steps)
    parser.add_argument("--wallpapers", type=Path, default=WALLPAPERS, help="folder of the wallpapers")
    parser.add_argument("--output", type=Path, default=Path("build/edsr"), help="folder to write into")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 keeps its own choice")
    parser.add_argument("--skip-import", action="store_true", help="stop before the `.inn` checkpoint")
    return parser


if __name__ == "__main__":
    sys.exit(main())
