"""Recipes for any checkpoint: batches, the loss that the output calls for, defaults, and samples that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.training.recipes.samples import EPOCHS, MIXED_SHARE, SampleBatches, TrainingDataError, sizes_recipe
from tests.inn_core.graph.tiny import model_of, node
from tests.inn_core.trained_networks import gaussian, integral, mlp, residual_convnet, smooth_images

FLOAT = {"x": np.dtype(np.float32)}


@pytest.fixture(scope="module")
def convnet() -> Checkpoint:
    return integral(residual_convnet(), {"x": smooth_images(16)})


def labelled(count: int = 200) -> dict[str, np.ndarray]:
    return {"x": smooth_images(count), "labels": np.arange(count) % 5}


def with_softmax() -> onnx.ModelProto:
    """A linear classifier that gives probabilities."""
    return model_of(
        [
            node("Gemm", "x w b", "h"),
            node("Relu", "h", "r"),
            node("Gemm", "r v c", "l"),
            node("Softmax", "l", "y", axis=1),
        ],
        weights={"w": (6, 8), "b": (8,), "v": (8, 5), "c": (5,)},
        inputs={"x": (6,)},
    )


def test_an_epoch_holds_each_sample_once_with_its_label() -> None:
    samples = np.arange(24, dtype=np.uint8)[:, None]
    batches = SampleBatches({"x": samples}, FLOAT, np.arange(24), batch=6)
    found = list(batches.epoch(0))
    assert len(found) == len(batches) == 4
    for (inputs,), targets in found:
        assert inputs.dtype == torch.float32
        assert torch.equal(inputs[:, 0].long(), targets)
    order = torch.cat([targets for _, targets in found])
    assert sorted(order.tolist()) == list(range(24))
    assert not torch.equal(order, torch.cat([targets for _, targets in batches.epoch(1)]))


def test_an_incomplete_last_batch_is_left_out() -> None:
    batches = SampleBatches({"x": gaussian(25, 6)}, FLOAT, None, batch=6)
    assert len(list(batches.epoch(0))) == len(batches) == 4


def test_without_labels_half_of_the_images_have_a_box_of_another_one() -> None:
    """Images of one colour each: a box shows as a second colour."""
    images = np.arange(32, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 8, 8), dtype=np.float32)
    (((mixed,), targets),) = SampleBatches({"x": images}, FLOAT, None, batch=32).epoch(0)
    assert targets is None
    colours = [len(image.unique()) for image in mixed]
    assert all(count in (1, 2) for count in colours)
    assert all(count == 1 for count in colours[round(MIXED_SHARE * 32) :])
    assert sum(count == 2 for count in colours) > 0.8 * MIXED_SHARE * 32  # an image may be its own donor
    assert np.array_equal(images[:, 0, 0, 0], np.arange(32))
    (((whole,), _),) = SampleBatches({"x": images}, FLOAT, np.arange(32), batch=32).epoch(0)
    assert all(len(image.unique()) == 1 for image in whole)


def test_labels_make_the_task_and_none_make_none(convnet: Checkpoint) -> None:
    recipe = sizes_recipe(convnet, labelled())
    assert recipe.task_loss is not None
    logits, classes = torch.randn(4, 5), torch.tensor([0, 4, 2, 2])
    expected = -torch.log_softmax(logits.double(), 1)[range(4), classes].mean()
    assert float(recipe.task_loss(logits, classes)) == pytest.approx(float(expected), rel=1e-5)
    assert sizes_recipe(convnet, labelled(), labelled=False).task_loss is None
    assert sizes_recipe(convnet, {"x": smooth_images(200)}).task_loss is None


def test_the_loss_of_probabilities_takes_their_logarithm() -> None:
    checkpoint = integral(with_softmax(), {"x": gaussian(16, 6)})
    recipe = sizes_recipe(checkpoint, {"x": gaussian(64, 6), "labels": np.arange(64) % 5})
    assert recipe.task_loss is not None
    chances = torch.tensor([[0.5, 0.5, 0, 0, 0], [0.1, 0.2, 0.3, 0.2, 0.2]])
    expected = -(np.log(0.5) + np.log(0.3)) / 2
    assert float(recipe.task_loss(chances, torch.tensor([1, 2]))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [2, 40, 200, 3000, 60_000])
def test_more_samples_take_fewer_epochs_within_bounds(count: int) -> None:
    checkpoint = integral(mlp(), {"x": gaussian(16, 6)})
    recipe = sizes_recipe(checkpoint, {"x": np.zeros((count, 6), dtype=np.float32)})
    assert EPOCHS[0] <= recipe.settings.epochs <= EPOCHS[1]
    assert len(recipe.batches) >= 1
    assert count < 60_000 or recipe.settings.epochs < 10


def test_a_fixed_batch_is_kept() -> None:
    checkpoint = integral(residual_convnet(), {"x": smooth_images(16)})
    for value in (*checkpoint.template.model.graph.input, *checkpoint.template.model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 7
    recipe = sizes_recipe(checkpoint, labelled())
    assert {len(inputs[0]) for inputs, _ in recipe.batches.epoch(0)} == {7}
    with pytest.raises(TrainingDataError, match="7 samples at a time and there are 6"):
        sizes_recipe(checkpoint, labelled(6))


def test_the_data_are_told_apart(convnet: Checkpoint) -> None:
    plain = labelled()
    changed = {**plain, "labels": plain["labels"][::-1].copy()}
    digests = {sizes_recipe(convnet, arrays).data for arrays in (plain, changed, {"x": plain["x"]})}
    assert len(digests) == 3
    assert sizes_recipe(convnet, plain).data in digests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "no array 'x'; it has: labels"),
        ({"x": np.zeros((200, 3, 8, 9), dtype=np.float32)}, r"takes \(n, 3, 8, 8\)"),
        ({"x": np.zeros((200, 3, 64), dtype=np.float32)}, "has shape"),
        ({"x": np.full((200, 3, 8, 8), np.nan, dtype=np.float32)}, "not finite"),
        ({"x": np.full((200, 3, 8, 8), "a")}, "not numbers"),
        ({"x": smooth_images(1)}, "at least two"),
        ({"labels": np.arange(3)}, "one integer class for each"),
        ({"labels": np.zeros(200)}, "dtype float64"),
        ({"labels": np.full(200, 5)}, "5 classes, 0 to 4"),
        ({"labels": np.full(200, -1)}, "from -1"),
    ],
)
def test_what_does_not_fit_is_refused(convnet: Checkpoint, change: dict[str, Any], message: str) -> None:
    arrays = {name: array for name, array in {**labelled(), **change}.items() if array is not None}
    with pytest.raises(TrainingDataError, match=message):
        sizes_recipe(convnet, arrays)


def test_labels_of_an_image_output_are_refused() -> None:
    model = model_of(
        [node("Conv", "x w b", "h", pads=[1, 1, 1, 1]), node("Relu", "h", "r"), node("Conv", "r v c", "y")],
        weights={"w": (6, 3, 3, 3), "b": (6,), "v": (3, 6, 1, 1), "c": (3,)},
        inputs={"x": (3, 8, 8)},
    )
    checkpoint = integral(model, {"x": smooth_images(16)})
    with pytest.raises(TrainingDataError, match="--unlabelled"):
        sizes_recipe(checkpoint, labelled())
    assert not sizes_recipe(checkpoint, labelled(), labelled=False).is_fastest
