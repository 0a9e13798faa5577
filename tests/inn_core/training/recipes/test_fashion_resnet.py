"""The built-in recipe of the demo network, on images made up for the test."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from inn_core.training.recipes.fashion_mnist import DatasetError
from inn_core.training.recipes.fashion_resnet import recipe

TRAIN, TEST = 300, 20
SMOOTHING = 0.05


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for stem, count in (("train", TRAIN), ("t10k", TEST)):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))
    return tmp_path


def test_an_epoch_holds_every_image_once_and_depends_on_its_number_and_the_seed(data: Path) -> None:
    batches = recipe(folder=data).batches
    found = list(batches.epoch(0))
    assert len(batches) == len(found) == 3
    classes = torch.cat([targets for _, targets in found])
    assert classes.bincount().tolist() == [TRAIN // 10] * 10
    pixels = found[0][0][0]
    assert pixels.shape == (128, 1, 28, 28)
    assert 0 <= float(pixels.min()) < float(pixels.max()) <= 1
    assert torch.equal(pixels, next(iter(batches.epoch(0)))[0][0])
    assert not torch.equal(pixels, next(iter(batches.epoch(1)))[0][0])
    assert not torch.equal(pixels, next(iter(recipe(seed=1, folder=data).batches.epoch(0)))[0][0])


def test_the_task_is_the_smoothed_cross_entropy(data: Path) -> None:
    loss = recipe(folder=data).task_loss
    assert loss is not None
    logits, classes = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    logs = torch.log_softmax(logits.double(), 1)
    wanted = torch.full((6, 10), SMOOTHING / 10, dtype=torch.float64)
    wanted += (1 - SMOOTHING) * functional.one_hot(classes, 10)
    assert float(loss(logits, classes)) == pytest.approx(float(-(wanted * logs).sum(1).mean()), rel=1e-5)
    assert recipe(folder=data, labelled=False).task_loss is None


def test_it_starts_from_the_network_that_ships_and_is_judged_on_the_test_images(data: Path) -> None:
    found = recipe(folder=data)
    start = found.start()
    assert start.name == "fashion_resnet"
    assert found.evaluation is not None
    assert found.evaluation["image"].shape == (TEST, 1, 28, 28)
    assert found.evaluation["labels"].tolist() == [*range(10), *range(10)]
    (graph_input,) = start.template.model.graph.input
    assert graph_input.name == "image"


def test_missing_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="dataset-fashion-mnist"):
        recipe(folder=tmp_path)
