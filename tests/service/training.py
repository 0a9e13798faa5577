"""A small network whose sizes can be trained in a second, its samples, and a recipe that a test can stop anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import save_checkpoint
from inn_core.integral.channel_permutation import smoothing_orders
from tests.inn_core.trained_networks import integral, residual_convnet, smooth_images

CLASSES = 5

STOPPABLE = '''
"""A recipe that sends its own process the signal in the file `stop`, in the middle of the second epoch."""

import os
import pathlib
import signal

import inn_core.training.state
import torch
from inn_core.checkpoint.storage import load_checkpoint
from inn_core.training.settings import SizeTraining
from inn_core.training.recipes.recipe import Recipe

inn_core.training.state.SAVE_SECONDS = 0.0  # a state after every step
STOP = pathlib.Path("stop")


class Batches:
    def __len__(self):
        return 4

    def epoch(self, number):
        for step in range(4):
            if number == 1 and step == 2 and STOP.exists():
                name = STOP.read_text()
                STOP.unlink()
                os.kill(os.getpid(), getattr(signal, name))
            generator = torch.Generator().manual_seed(10 * number + step)
            yield (torch.randn(16, 3, 8, 8, generator=generator),), torch.arange(16) % 5


def recipe(seed=0):
    return Recipe(
        name="stoppable",
        start=lambda: load_checkpoint("small.inn"),
        batches=Batches(),
        task_loss=torch.nn.functional.cross_entropy,
        settings=SizeTraining(epochs=3, peak_rate=0.02),
        seed=seed,
    )


def nothing():
    return 3
'''


def small_checkpoint() -> Checkpoint:
    """A residual network with calibration samples and smoothing orders."""
    plain = integral(residual_convnet(), {"x": smooth_images(48)})
    return replace(plain, channel_permutations=smoothing_orders(plain))


def samples(count: int = 64) -> Mapping[str, Array]:
    """Images and classes that can be learned: which of five bands of the mean brightness an image lies in."""
    images = smooth_images(count, seed=1)
    ranks = np.argsort(np.argsort(images.mean(axis=(1, 2, 3))))
    return {"x": images, "labels": (ranks * CLASSES // count).astype(np.int64)}


def write_desk(folder: Path) -> None:
    """Write `small.inn`, `data.npz` and the module `stoppable` into a folder."""
    save_checkpoint(small_checkpoint(), folder / "small.inn")
    np.savez(folder / "data.npz", **samples())
    (folder / "stoppable.py").write_text(STOPPABLE)
