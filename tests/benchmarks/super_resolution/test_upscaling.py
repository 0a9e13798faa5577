"""PSNR from its definition and from Pillow's luma, padding that keeps sizes, ONNX files for any height and width."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.super_resolution.edsr import SmallEdsr
from benchmarks.super_resolution.upscaling import INPUT, OUTPUT, psnr, to_pixels, upscale, write_onnx, write_samples
from benchmarks.super_resolution.waifu2x import MARGIN, Waifu2x

PARITY = 1e-4  # two float32 engines; bicubic weights of a = -0.75 in another order


def test_psnr_of_a_known_error() -> None:
    image = np.full((20, 30, 3), 100, dtype=np.uint8)
    assert psnr(image, image + np.uint8(5), luma=False) == pytest.approx(20 * math.log10(255 / 5))
    # a grey step of 5 is one of 5 x 219 / 255 in luma
    assert psnr(image, image + np.uint8(5)) == pytest.approx(20 * math.log10(255 / (5 * 219 / 255)))
    assert psnr(image, image) == math.inf


def test_the_border_is_left_out() -> None:
    image = np.full((20, 30, 3), 100, dtype=np.uint8)
    other = image.copy()
    other[:2] = other[-2:] = 0
    other[:, :2] = other[:, -2:] = 0
    assert psnr(image, other) == math.inf
    assert psnr(image, other, border=1) < math.inf
    assert psnr(image, other, border=0) < psnr(image, other, border=1)


def test_luma_is_that_of_pillow() -> None:
    """Pillow's Y has the full range, BT.601's the studio's: a factor of 255 / 219 in the error."""
    random = np.random.default_rng(0)
    first, second = random.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    planes = [np.asarray(Image.fromarray(image).convert("YCbCr"))[:, :, 0].astype(float) for image in (first, second)]
    expected = 10 * math.log10(255**2 / np.mean(np.square((planes[0] - planes[1]) * 219 / 255)))
    assert psnr(first, second, border=0) == pytest.approx(expected, abs=0.02)  # Pillow rounds to whole numbers


def test_upscale_pads_by_the_margin_and_gives_twice_the_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)

    def nearest(pixels: np.ndarray) -> np.ndarray:
        assert pixels.shape == (1, 3, 12 + 6, 9 + 6)
        inner = pixels[:, :, 3:-3, 3:-3]
        large: np.ndarray = 1.5 * inner.repeat(2, axis=2).repeat(2, axis=3) - 0.1
        return large

    found = upscale(nearest, image, margin=3)
    expected = np.clip(np.rint(1.5 * image.astype(np.float64) - 25.5 - 1e-6), 0, 255)
    assert np.abs(found.astype(int) - expected.repeat(2, axis=0).repeat(2, axis=1)).max() <= 1
    assert {0, 255} <= set(found.ravel().tolist())


@pytest.mark.parametrize(("make", "margin"), [(Waifu2x, MARGIN), (lambda: SmallEdsr(width=6, blocks=1), 0)])
def test_onnx_files_take_any_height_and_width(make: type[nn.Module], margin: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = make().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    path = tmp_path / "deep" / "network.onnx"
    write_onnx(module, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 31, 40), (2, 3, 50, 22)):
        image = np.random.default_rng(0).random(shape, dtype=np.float32)
        (found,) = session.run([OUTPUT], {INPUT: image})
        with torch.inference_mode():
            expected = module(torch.from_numpy(image)).numpy()
        assert found.shape == (shape[0], 3, 2 * (shape[2] - 2 * margin), 2 * (shape[3] - 2 * margin))
        np.testing.assert_allclose(found, expected, atol=PARITY * np.abs(expected).max())
    assert [file.name for file in path.parent.iterdir()] == ["network.onnx"]


def test_samples_come_back(tmp_path: Path) -> None:
    samples = to_pixels(np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8))
    write_samples(samples, tmp_path / "calibration.npz")
    np.testing.assert_array_equal(np.load(tmp_path / "calibration.npz")[INPUT], samples)
