"""The recipe as a user runs it, on a data set small enough for a test."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from models.fashion_resnet import FashionResNet
from models.recipes import fashion_resnet as recipe
from models.recipes.demo_images import first_of_each_class

LOGIT_TOLERANCE = 1e-4
"""Two float32 engines add in different orders over 15 layers."""


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for stem, count in (("train", 40), ("t10k", 20)):
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return folder


def test_recipe_writes_the_network_it_trained(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    arguments = ["--epochs", "1", "--data", str(data), "--output", str(output), "--skip-import", "--threads", "1"]
    assert recipe.main(arguments) == 0
    assert "on 20 images" in capsys.readouterr().out

    module = FashionResNet().eval()
    module.load_state_dict(load_file(output / "fashion_resnet.safetensors"))
    evaluation = np.load(output / "evaluation.npz")
    assert evaluation["image"].shape == (20, 1, 28, 28)
    assert evaluation["image"].dtype == np.float32
    assert evaluation["labels"].tolist() == [*range(10), *range(10)]
    session = onnxruntime.InferenceSession(output / "model.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["image"]
    assert session.get_inputs()[0].shape[1:] == [1, 28, 28]
    for count in (1, 20):
        (logits,) = session.run(["logits"], {"image": evaluation["image"][:count]})
        with torch.inference_mode():
            expected = module(torch.from_numpy(evaluation["image"][:count])).numpy()
        np.testing.assert_allclose(logits, expected, atol=LOGIT_TOLERANCE)
    calibration = np.load(output / "calibration.npz")["image"]
    assert calibration.shape == (40, 1, 28, 28)
    np.testing.assert_array_equal(calibration * np.float32(255), np.rint(calibration * np.float32(255)))
    assert not list(output.glob("*.part*"))


def test_settings_run_never_looks_at_the_test_images(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["--epochs", "1", "--data", str(data), "--output", str(output), "--validation", "10"]
    assert recipe.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "training on 30 images" in captured.err
    assert "held-out accuracy" in captured.err
    assert [path.name for path in output.iterdir()] == ["training.pt"]


def test_missing_data_is_an_error_with_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe.main(["--data", str(tmp_path / "nowhere")]) == 1
    assert "invalid-dataset" in capsys.readouterr().err


def test_calibration_images_are_distinct_and_follow_the_seed() -> None:
    chosen = recipe.pick_calibration(5000, seed=0)
    assert len(set(chosen.tolist())) == 1024
    np.testing.assert_array_equal(chosen, recipe.pick_calibration(5000, seed=0))
    assert (chosen != recipe.pick_calibration(5000, seed=1)).any()


def test_demo_images_are_the_first_of_each_class() -> None:
    labels = np.array([0, 1, 0, 0, 2, 3, 4, 5, 6, 7, 8, 9, 9, 1, 1], dtype=np.uint8)
    assert first_of_each_class(labels, per_class=2).tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
