"""Train an image classifier on bytes in memory: one-cycle SGD, light augmentation, resumable at any step.

What a step does depends only on the schedule and the step's number, so that a run that was stopped and resumed equals
one that was not (on the same machine and precision).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from inn_core.progress import Progress, no_progress
from inn_core.training.averaging import RunningAverage
from inn_core.training.recipes.images import ByteArray, Schedule, augmented_batches, lay_out_, to_pixels
from inn_core.training.settings import decayed_parameters
from inn_core.training.state import RunState

Backward = Callable[[Tensor, Tensor, int], float]
"""Adds the gradients of one batch (pixels, classes, number of the step) to the parameters and returns the loss."""

AfterEpoch = Callable[[int, float], None]
"""Told the number of finished epochs and the mean loss of the last one."""


def train_classifier_(
    module: nn.Module, images: ByteArray, labels: ByteArray, *, schedule: Schedule, **options: Any
) -> None:
    """Train `module` in place for the epochs of its schedule; see `train_steps_` for the rest."""
    n_steps = schedule.epochs * math.ceil(len(images) / schedule.batch_images)
    train_steps_(module, images, labels, n_steps=n_steps, schedule=schedule, **options)


def train_steps_(
    module: nn.Module,
    images: ByteArray,  # shape: (n, height, width)
    labels: ByteArray,  # shape: (n,)
    *,
    n_steps: int,
    schedule: Schedule,
    device: torch.device,
    bfloat16: bool,
    backward: Backward | None = None,
    state_path: Path | None = None,
    run: str = "",
    progress: Progress = no_progress,
    after_epoch: AfterEpoch | None = None,
) -> float:
    """Train `module` in place for `n_steps`; it ends in eval mode, in float32 on the CPU.

    A run that was stopped goes on from its state and ends with the parameters that it would have had (on one machine,
    with one number of threads), provided that `backward` depends on nothing but its arguments and the parameters.

    Args:
        module: takes float32 pixels in [0, 1], shape `(batch, 1, height, width)`, and gives logits.
        images: uint8.
        labels: class of each image.
        n_steps: gradient steps, at least 0; the rate climbs and falls once over all of them.
        schedule: the run; its `epochs` are not looked at.
        device: where to compute.
        bfloat16: compute in bfloat16 (weights stay float32).
        backward: what one step learns from a batch; None takes the cross-entropy of the labels. It runs under
            autocast where `bfloat16` says so.
        state_path: written every minute, after each epoch that `after_epoch` hears of, and at the end; when it exists
            the run continues behind it.
        run: what decides the run beside these arguments, so that the state of another one is never gone on with.
        progress: told the finished share.
        after_epoch: called with the number of finished epochs and the mean loss of the last one.

    Returns:
        Mean loss of the last tenth of the steps (at least one), of those that were not done before a stop; 0 when
        there are none.

    Raises:
        TrainingStateError: `state_path` belongs to another run, or is unreadable.
    """
    lay_out_(module.to(device), torch.channels_last)
    optimizer = torch.optim.SGD(
        decayed_parameters(module, schedule.weight_decay), lr=0.0, momentum=schedule.momentum, nesterov=True
    )
    learn = backward or _cross_entropy(module, schedule)
    identity = {"kind": "steps", **asdict(schedule), "steps": n_steps, "bfloat16": bfloat16, "run": run}
    average = RunningAverage(module, schedule.average_share, buffers=True)
    whole = nn.ModuleList([module, average])
    state = RunState(state_path, whole, optimizer, identity)
    done = state.steps
    module.train()
    losses: list[float] = []
    epoch_steps = math.ceil(len(images) / schedule.batch_images)
    epoch_loss, epoch_images = 0.0, 0
    batches = endless_batches(images, labels, schedule, skipped=done)
    for step in range(done, n_steps):
        batch, targets = next(batches)
        for parameters in optimizer.param_groups:
            parameters["lr"] = schedule.rate((step + 0.5) / n_steps)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            losses.append(learn(batch.to(device, memory_format=torch.channels_last), targets.to(device), step))
        optimizer.step()
        average.add_()
        epoch_loss, epoch_images = epoch_loss + losses[-1] * len(targets), epoch_images + len(targets)
        is_heard = after_epoch is not None and (step + 1) % epoch_steps == 0
        save = state.save if is_heard or step + 1 == n_steps else state.save_now_and_then
        save(step + 1)
        progress(f"step {step + 1} of {n_steps}", (step + 1) / n_steps)
        if after_epoch is not None and is_heard:
            after_epoch((step + 1) // epoch_steps, epoch_loss / epoch_images)
            epoch_loss, epoch_images = 0.0, 0
    average.apply_()
    lay_out_(module.to("cpu"), torch.contiguous_format)
    module.eval()
    last = losses[-max(1, n_steps // 10) :]
    return sum(last) / len(last) if last else 0.0


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


def endless_batches(
    images: ByteArray, labels: ByteArray, schedule: Schedule, *, skipped: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches, epoch after epoch; what comes depends only on the schedule's seed and batch size.

    The first `skipped` of them are left out.
    """
    epoch, rest = divmod(skipped, math.ceil(len(images) / schedule.batch_images))
    while True:
        yield from itertools.islice(augmented_batches(images, labels, schedule, epoch), rest, None)
        epoch, rest = epoch + 1, 0


def _cross_entropy(module: nn.Module, schedule: Schedule) -> Backward:
    def backward(batch: Tensor, targets: Tensor, _step: int) -> float:
        logits = module(batch).float()
        loss = functional.cross_entropy(logits, targets, label_smoothing=schedule.label_smoothing)
        torch.autograd.backward(loss)
        return float(loss.detach())

    return backward
