"""Images of the pipelines: what is trained on, what settings are chosen on, what is reported, what calibrates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inn_core.training.recipes.fashion_mnist import CLASS_NAMES, IMAGE_SIZE, fashion_mnist
from inn_core.training.recipes.images import ByteArray, to_pixels

HELD_OUT = 5000
CALIBRATION = 1000
SPLIT_SEED = 0
"""The split is the same for every seed of a run, so that seeds differ in training only."""

QUICK_IMAGES = 300


@dataclass(frozen=True)
class Part:
    """Images, shape `(n, 28, 28)`, and their classes, shape `(n,)`; both uint8."""

    images: ByteArray
    labels: ByteArray

    def take(self, chosen: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Part:
        """The images at the given positions."""
        return Part(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Data:
    """The data set in its parts.

    Attributes:
        train: gradient steps see these.
        validation: settings are chosen on these; a run that tries settings never trains on them.
        test: reported; None in a run that only tries settings.
        calibration: a thousand of the training images, for statistics.
    """

    train: Part
    validation: Part
    test: Part | None
    calibration: Part

    def calibration_pixels(self) -> Tensor:
        """Calibration images as float32 pixels, shape `(n, 1, 28, 28)`."""
        return to_pixels(self.calibration.images)

    def calibration_labels(self) -> Tensor:
        """Classes of the calibration images; only rivals that say so look at them."""
        return torch.from_numpy(self.calibration.labels.astype(np.int64))


def load(folder: Path, *, with_test: bool) -> Data:
    """Fashion-MNIST: 60,000 images to train on and 10,000 to report, or 55,000 and 5,000 others to try settings."""
    test = Part(*fashion_mnist("test", folder=folder)) if with_test else None
    return _split(Part(*fashion_mnist("train", folder=folder)), HELD_OUT, CALIBRATION, test)


def quick(*, with_test: bool) -> Data:
    """A few made-up images for tests: the class decides which rows are bright."""
    return _split(_made_up(QUICK_IMAGES, 0), 60, 100, _made_up(100, 1) if with_test else None)


def _split(train: Part, held_out: int, calibration: int, test: Part | None) -> Data:
    order = np.random.default_rng([SPLIT_SEED, 2]).permutation(len(train.images))
    kept = np.sort(order[held_out:] if test is None else order)
    chosen = np.sort(np.random.default_rng([SPLIT_SEED, 1]).choice(kept, size=calibration, replace=False))
    return Data(train.take(kept), train.take(order[:held_out]), test, train.take(chosen))


def _made_up(count: int, seed: int) -> Part:
    random = np.random.default_rng(seed)
    labels = (np.arange(count) % len(CLASS_NAMES)).astype(np.uint8)
    images = random.integers(0, 100, (count, IMAGE_SIZE, IMAGE_SIZE))
    rows = 2 + 2 * labels.astype(np.int64)
    for step in range(3):
        images[np.arange(count), rows + step] += 150
    return Part(images.astype(np.uint8), labels)
