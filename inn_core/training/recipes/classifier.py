"""Train an image classifier from scratch on bytes in memory: one-cycle SGD, light augmentation, resumable each epoch.

Data order and augmentation of an epoch depend only on the seed and the epoch's number, and the learning rate only on
the step, so that a run that was stopped and resumed equals one that was not (on the same machine and precision).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from inn_core.progress import Progress, no_progress
from inn_core.training.averaging import RunningAverage
from inn_core.training.optimisation import decayed_parameters, one_cycle_rate
from inn_core.training.state import RunState

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


def train_classifier_(
    module: nn.Module,
    images: ByteArray,  # shape: (n, height, width)
    labels: ByteArray,  # shape: (n,)
    *,
    schedule: Schedule,
    device: torch.device,
    bfloat16: bool,
    state_path: Path | None = None,
    progress: Progress = no_progress,
    after_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Train `module` in place on grey images; it ends in eval mode, in float32 on the CPU.

    Args:
        module: takes float32 pixels in [0, 1], shape `(batch, 1, height, width)`, and gives logits.
        images: uint8.
        labels: class of each image.
        schedule: the run.
        device: where to compute.
        bfloat16: compute convolutions in bfloat16 (weights stay float32).
        state_path: written after each epoch; when it exists the run continues behind it.
        progress: told the epoch and the finished share of the run.
        after_epoch: called with the number of finished epochs and the mean loss of the last one.

    Raises:
        TrainingStateError: `state_path` was written by a run with another schedule.
    """
    lay_out_(module.to(device), torch.channels_last)
    optimizer = torch.optim.SGD(
        decayed_parameters(module, schedule.weight_decay), lr=0.0, momentum=schedule.momentum, nesterov=True
    )
    identity = {"kind": "classifier", **asdict(schedule)}
    average = RunningAverage(module, schedule.average_share, buffers=True)
    whole = nn.ModuleList([module, average])
    state = RunState(state_path, whole, optimizer, identity)
    steps_per_epoch = math.ceil(len(images) / schedule.batch_images)
    n_steps = schedule.epochs * steps_per_epoch
    for epoch in range(state.steps, schedule.epochs):
        module.train()
        total_loss = 0.0
        for index, (batch, targets) in enumerate(augmented_batches(images, labels, schedule, epoch)):
            step = epoch * steps_per_epoch + index
            for parameters in optimizer.param_groups:
                parameters["lr"] = schedule.rate((step + 0.5) / n_steps)
            inputs = batch.to(device, memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                logits = module(inputs)
            loss = functional.cross_entropy(
                logits.float(), targets.to(device), label_smoothing=schedule.label_smoothing
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            average.add_()
            total_loss += float(loss.detach()) * len(targets)
            progress(f"epoch {epoch + 1} of {schedule.epochs}", (step + 1) / n_steps)
        state.save(epoch + 1)
        if after_epoch is not None:
            after_epoch(epoch + 1, total_loss / len(images))
    average.apply_()
    lay_out_(module.to("cpu"), torch.contiguous_format)
    module.eval()


def to_pixels(images: ByteArray) -> Tensor:
    """Bytes, shape `(n, height, width)`, as float32 pixels in [0, 1], shape `(n, 1, height, width)`."""
    return torch.from_numpy(images.astype(np.float32) / np.float32(255.0)).unsqueeze(1)


def accuracy(module: nn.Module, images: ByteArray, labels: ByteArray, *, batch_images: int = 500) -> float:
    """Share of images whose largest logit is that of their label, 0 to 1; computes where the module's weights are."""
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(images), batch_images):
            inputs = to_pixels(images[start : start + batch_images]).to(device)
            found = module(inputs).argmax(1).cpu().numpy()
            correct += int((found == labels[start : start + batch_images]).sum())
    module.train(was_training)
    return correct / len(images)


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
