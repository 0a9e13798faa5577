"""Train all sizes of the demo network on Fashion-MNIST: the built-in recipe `fashion_resnet` of `inn train`.

It starts from the imported network that ships with the package and ends with a checkpoint that holds every size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import load_checkpoint
from inn_core.fitting.runtime import spread
from inn_core.training.loop import Batch
from inn_core.training.recipes.fashion_mnist import DEFAULT_FOLDER, fashion_mnist
from inn_core.training.recipes.images import ByteArray, Schedule, augmented_batches, to_pixels
from inn_core.training.recipes.recipe import STATISTICS_SAMPLES, Recipe
from inn_core.training.recipes.shipped import shipped_file
from inn_core.training.settings import SizeTraining

START = shipped_file("checkpoints/fashion_resnet_imported.inn")
"""The imported network, of `python -m models.recipes.fashion_resnet`; this recipe makes `fashion_resnet.inn` of it."""

SETTINGS = SizeTraining(epochs=16, peak_rate=0.07, average_share=0.25)
LABEL_SHARE = 0.3
"""Of the labels in what smaller sizes learn from; tried on 5,000 training images that were held out."""
INDEPENDENT = 0.2
SMALLEST = 0.05
"""Trained no smaller: below, `refined` fits what the samples of the checkpoint say."""


class FashionBatches:
    """Training images, shuffled and augmented as those of the discrete network are.

    Args:
        images: uint8, shape `(n, height, width)`.
        labels: class of each image.
        schedule: batch size, augmentation and seed.
    """

    def __init__(self, images: ByteArray, labels: ByteArray, schedule: Schedule) -> None:
        self._images = images
        self._labels = labels
        self._schedule = schedule

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self._images) / self._schedule.batch_images)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch; the targets are classes."""
        for pixels, classes in augmented_batches(self._images, self._labels, self._schedule, number):
            yield (pixels,), classes


def recipe(*, seed: int = 0, labelled: bool = True, folder: str | Path = DEFAULT_FOLDER) -> Recipe:
    """The recipe of the demo network.

    Args:
        seed: of the order of the images, their augmentation, and the sizes.
        labelled: train on labels; without, the imported network is the teacher.
        folder: holds the files of Fashion-MNIST.

    Raises:
        DatasetError: the images are not installed.
    """
    images, labels = fashion_mnist("train", folder=folder)
    test_images, test_labels = fashion_mnist("test", folder=folder)
    return replace(
        recipe_from(
            lambda: load_checkpoint(START), images, labels, name="fashion_resnet", seed=seed, labelled=labelled
        ),
        evaluation={"image": to_pixels(test_images).numpy(), "labels": test_labels.astype(np.int64)},
        data=f"Fashion-MNIST, {len(images):,} training images",
        description="residual network for Fashion-MNIST, all sizes",
    )


def recipe_from(
    start: Callable[[], Checkpoint],
    images: ByteArray,  # shape: (n, height, width)
    labels: ByteArray,  # shape: (n,)
    *,
    name: str,
    seed: int = 0,
    labelled: bool = True,
) -> Recipe:
    """The same recipe for any classifier of grey images.

    Args:
        start: loads the network.
        images: uint8.
        labels: class of each image.
        name: of the recipe.
        seed, labelled: as in `recipe`.
    """
    schedule = Schedule(seed=seed + 1000)  # another order than that of the discrete network's own training

    def task_loss(logits: Any, classes: Any) -> Tensor:
        return functional.cross_entropy(
            logits.float(), classes.to(logits.device), label_smoothing=schedule.label_smoothing
        )

    return Recipe(
        name=name,
        start=start,
        batches=FashionBatches(images, labels, schedule),
        task_loss=task_loss if labelled else None,
        settings=replace(SETTINGS, task_share=LABEL_SHARE) if labelled else SETTINGS,
        statistics={"image": to_pixels(images[spread(len(images), STATISTICS_SAMPLES)]).numpy()},
        is_fastest=True,
        independent=INDEPENDENT,
        smallest=SMALLEST,
        seed=seed,
    )
