"""The super-resolution benchmark measures what an export computes, and its tables show what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.super_resolution.__main__ import measure_bicubic, measure_sizes
from benchmarks.super_resolution.edsr import SmallEdsr
from benchmarks.super_resolution.photographs import halved, patches
from benchmarks.super_resolution.report import draw, least_gain, mean, tables
from benchmarks.super_resolution.upscaling import INPUT, psnr, to_pixels, upscale, write_onnx
from inn_core.importing.pipeline import import_network


def row(params: int, first: float, second: float, method: str = "sequential") -> dict[str, Any]:
    scores = {"a": first, "b": second}
    return {
        "params": params,
        "macs": 10 * params,
        "bytes": 4 * params,
        "method": method,
        "held_out": 0.001,
        "seconds": 1.25,
        "psnr": scores,
        "psnr_rgb": scores,
    }


@pytest.fixture
def results() -> dict[str, Any]:
    network = {
        "full": row(1000, 34.0, 36.0, "full"),
        "refined": [row(750, 33.9, 36.0), row(500, 33.5, 35.5)],
        "instant": [row(750, 33.0, 35.0, "instant"), row(500, 31.9, 34.0, "instant")],
        "calibration_samples": 192,
        "environment": {"torch": "2", "cores": 2, "threads": 1},
    }
    return {"bicubic": {"psnr": {"a": 32.0, "b": 33.0}}, "networks": {"waifu2x": network}}


def test_tables_show_losses_against_the_full_network_and_gains_over_bicubic(results: dict[str, Any]) -> None:
    lines = tables(results).splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    by_size = {(row[0], row[1]): row[2:] for row in cells if len(row) > 2}
    assert by_size["full", "1,000 (100.0 %)"][:5] == ["100.0 %", "35.00", "0.00", "2.50", "2.00"]
    assert by_size["refined", "750 (75.0 %)"][:5] == ["75.0 %", "34.95", "0.05", "2.45", "1.90"]
    assert by_size["refined", "500 (50.0 %)"][:5] == ["50.0 %", "34.50", "0.50", "2.00", "1.50"]
    assert by_size["instant", "500 (50.0 %)"][4] == "-0.10"
    assert ["a", "32.00", "34.00", "33.90", "33.50"] in cells
    assert any("Bicubic interpolation: 32.50 dB" in line for line in lines)


def test_gains_are_of_the_worst_photograph() -> None:
    assert least_gain({"a": 5.0, "b": 9.0}, {"a": 4.0, "b": 8.5}) == 0.5
    assert mean({"a": 5.0, "b": 9.0}) == 7.0


def test_plot_is_a_picture(results: dict[str, Any], tmp_path: Path) -> None:
    draw(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_sizes_are_measured_on_the_exported_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = SmallEdsr(width=6, blocks=1).eval()
    nn.init.normal_(module.head.weight, std=0.02)
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (2, 12, 13, 3), dtype=np.uint8)
    images = dict(zip("ab", coarse.repeat(4, axis=1).repeat(4, axis=2), strict=True))
    write_onnx(module, tmp_path / "network.onnx")
    small, _ = patches(list(images.values()), side=16, per_image=8, seed=0)
    network = import_network(tmp_path / "network.onnx", {INPUT: to_pixels(small)}, name="tiny")
    measured = measure_sizes(
        network, images, margin=0, digest="sha256:" + "0" * 64, folder=tmp_path / "out", threads=1, shares=(0.5,)
    )

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output: np.ndarray = module(torch.from_numpy(pixels)).numpy()
        return output

    for name, image in images.items():
        expected = psnr(image, upscale(run, halved(image)))
        assert measured["full"]["psnr"][name] == pytest.approx(expected, abs=0.01)
        assert measure_bicubic(images)["psnr"][name] > 10
    assert measured["calibration_samples"] == 16
    (refined,), (instant,) = measured["refined"], measured["instant"]
    assert refined["params"] <= measured["full"]["params"] // 2
    assert instant["params"] == refined["params"]
    assert instant["method"] == "instant"
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".onnx"}
