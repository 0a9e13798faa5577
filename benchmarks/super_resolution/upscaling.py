"""What the networks for super-resolution share: pixels in and out, ONNX with free height and width, and PSNR.

A network takes float32 RGB in [0, 1], shape `(batch, 3, height, width)`, and gives twice the height and width. One
without padding loses a margin of its input on every side; `upscale` pads by it, so that images come out whole.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.files import write_arrays, write_graph

ByteArray = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
Run = Callable[[FloatArray], FloatArray]

SCALE = 2
INPUT, OUTPUT = "image", "upscaled"
"""Names of the graph's input and output."""

_LUMA = np.array([65.481, 128.553, 24.966]) / 255.0  # Y of ITU-R BT.601, 16 to 235, of RGB bytes; its 16 cancels


def to_pixels(images: ByteArray) -> FloatArray:
    """Bytes as float32 in [0, 1], same shape."""
    return images.astype(np.float32) / np.float32(255.0)


def upscale(
    run: Run,
    image: ByteArray,  # shape: (height, width, 3)
    *,
    margin: int = 0,
) -> ByteArray:
    """Twice the height and width by a network, as bytes.

    Args:
        run: the network on arrays, `(1, 3, height, width)` to `(1, 3, 2 height - 4 margin, 2 width - 4 margin)`.
        image: RGB bytes.
        margin: pixels that the network eats on every side; the image is padded with its border pixels.
    """
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    output = run(np.ascontiguousarray(to_pixels(padded).transpose(2, 0, 1)[None]))
    rounded = np.rint(np.clip(output[0], 0.0, 1.0) * np.float32(255.0))
    upscaled: ByteArray = rounded.astype(np.uint8).transpose(1, 2, 0)
    return upscaled


def psnr(
    expected: ByteArray,  # shape: (height, width, 3)
    found: ByteArray,  # shape: that of `expected`
    *,
    luma: bool = True,
    border: int = SCALE,
) -> float:
    """Peak signal-to-noise ratio of RGB bytes in decibels, peak 255; infinity where they are equal.

    Args:
        luma: compare Y of BT.601 only, as the literature on super-resolution does; else all three channels.
        border: pixels left out on every side.
    """
    difference = expected.astype(np.float64) - found.astype(np.float64)
    if luma:
        difference = difference @ _LUMA
    if border:
        difference = difference[border:-border, border:-border]
    error = float(np.mean(np.square(difference)))
    return 10.0 * float(np.log10(255.0**2 / error)) if error else float("inf")


def write_onnx(module: nn.Module, path: Path, *, side: int = 48) -> None:
    """Export a network with free batch, height and width.

    Args:
        module: in eval mode.
        path: the file; written aside first.
        side: height of the example that the exporter runs.
    """
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=16), 3: torch.export.Dim("width", min=16)}
    example = torch.zeros(2, 3, side, side + 4)
    write_graph(module, example, path, input_name=INPUT, output_name=OUTPUT, free=free)


def write_samples(samples: FloatArray, path: Path) -> None:
    """Write calibration samples as `.npz` under the name of the graph's input, aside first."""
    write_arrays(path, **{INPUT: samples})
