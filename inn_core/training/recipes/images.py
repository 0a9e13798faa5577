"""Grey images in memory as a recipe trains on them: augmented batches, the schedule of a run, and its precision.

Order and augmentation of an epoch depend only on the seed and the epoch's number, and the learning rate only on the
step, so that a run that was stopped and resumed equals one that was not (on the same machine and precision).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inn_core.training.settings import one_cycle_rate

ByteArray = NDArray[np.uint8]


@dataclass(frozen=True)
class Schedule:
    """Everything that decides a training run besides the data.

    Attributes:
        seed: of the initial weights, the order of the images and the augmentation.
        epochs: passes over the images.
        batch_images: images in a step.
        peak_rate: learning rate at the top of the cycle.
        warmup_share: share of all steps in which the rate climbs linearly from zero; it then falls linearly to zero.
        momentum: of Nesterov SGD.
        weight_decay: of every parameter with more than one axis; biases and normalization are not decayed.
        label_smoothing: share of the target spread over all classes.
        average_share: of the steps, over which what the run ends with is averaged, running statistics included; 0 keeps
            the last step. After fewer than a few hundred steps take the statistics again.
        shift_pixels: images are shifted by up to this many pixels each way, filled with zeros, and flipped at random.
    """

    seed: int = 0
    epochs: int = 16
    batch_images: int = 128
    peak_rate: float = 0.2
    warmup_share: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    average_share: float = 0.0
    shift_pixels: int = 1

    def rate(self, progress: float) -> float:
        """Learning rate when `progress` (0 to 1) of all steps are done."""
        return one_cycle_rate(progress, peak=self.peak_rate, warmup_share=self.warmup_share)


def to_pixels(images: ByteArray) -> Tensor:
    """Bytes, shape `(n, height, width)`, as float32 pixels in [0, 1], shape `(n, 1, height, width)`."""
    return torch.from_numpy(images.astype(np.float32) / np.float32(255.0)).unsqueeze(1)


def is_bfloat16_faster(make_module: Callable[[], nn.Module], batch: Tensor, *, device: torch.device) -> bool:
    """Whether a training step takes less time in bfloat16 than in float32, measured on this machine."""
    seconds: dict[bool, float] = {}
    for enabled in (False, True):
        module = make_module().to(device)
        lay_out_(module, torch.channels_last)
        inputs = batch.to(device, memory_format=torch.channels_last)
        runs = []
        for _ in range(4):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                loss = module(inputs).float().square().mean()
            torch.autograd.backward(loss)
            _ = float(loss.detach())
            runs.append(time.perf_counter() - start)
        seconds[enabled] = min(runs)
    return seconds[True] < seconds[False]


def augmented_batches(
    images: ByteArray, labels: ByteArray, schedule: Schedule, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: pixels, shape `(batch, 1, height, width)`, and classes, shape `(batch,)`, shuffled and augmented."""
    random = np.random.default_rng([schedule.seed, epoch])
    order = random.permutation(len(images))
    margin = schedule.shift_pixels
    height, width = images.shape[1:]
    rows, columns = np.arange(height), np.arange(width)
    for start in range(0, len(order), schedule.batch_images):
        chosen = order[start : start + schedule.batch_images]
        padded = np.pad(images[chosen], ((0, 0), (margin, margin), (margin, margin)))
        shifts = random.integers(0, 2 * margin + 1, size=(2, len(chosen), 1))
        flips = random.integers(0, 2, size=(len(chosen), 1))
        row = shifts[0] + rows
        column = shifts[1] + np.where(flips, columns[::-1], columns)
        shifted = padded[np.arange(len(chosen))[:, None, None], row[:, :, None], column[:, None, :]]
        yield to_pixels(shifted), torch.from_numpy(labels[chosen].astype(np.int64))


def lay_out_(module: nn.Module, layout: torch.memory_format) -> None:
    """Change how convolution weights lie in memory; channels last is the faster layout on processors."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
