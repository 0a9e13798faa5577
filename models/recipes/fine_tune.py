"""Train a given module for a number of steps, or for the fewest steps that reach an accuracy.

The steps are those of `models.recipes.classifier` (same batches, optimizer and shape of the schedule), counted in
gradient steps instead of epochs, so that methods can be compared after equally many.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from inn_core.optimisation import decayed_parameters
from inn_core.progress import Progress, no_progress
from models.recipes.classifier import ByteArray, Schedule, augmented_batches, lay_out_

Backward = Callable[[Tensor, Tensor], float]
"""Adds the gradients of one batch (pixels and classes) to the parameters and returns the loss."""

FINE_TUNING = replace(Schedule(), peak_rate=0.05, warmup_share=0.1)
"""A shorter climb to a lower rate than from scratch."""

LADDER = (50, 100, 200, 400, 800, 1600, 3200, 6400)
"""Numbers of steps that `fine_tune_to` tries."""


@dataclass(frozen=True)
class FineTuned:
    """The outcome of `fine_tune_to`.

    Attributes:
        module: the trained copy, in eval mode.
        n_steps, seconds: of the run that made it, without the shorter runs that were tried before.
        accuracy: what `judge` said.
        is_reached: whether that is at least the goal.
    """

    module: nn.Module
    n_steps: int
    seconds: float
    accuracy: float
    is_reached: bool


def train_steps_(
    module: nn.Module,
    images: ByteArray,  # shape: (n, height, width)
    labels: ByteArray,  # shape: (n,)
    *,
    n_steps: int,
    schedule: Schedule = FINE_TUNING,
    device: torch.device,
    bfloat16: bool,
    backward: Backward | None = None,
    progress: Progress = no_progress,
) -> float:
    """Train `module` in place for `n_steps`; it ends in eval mode, in float32 on the CPU.

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
        progress: told the finished share.

    Returns:
        Mean loss of the last tenth of the steps (at least one); 0 when there are none.
    """
    lay_out_(module.to(device), torch.channels_last)
    optimizer = torch.optim.SGD(
        decayed_parameters(module, schedule.weight_decay), lr=0.0, momentum=schedule.momentum, nesterov=True
    )
    learn = backward or _cross_entropy(module, schedule)
    module.train()
    losses: list[float] = []
    batches = endless_batches(images, labels, schedule)
    for step in range(n_steps):
        batch, targets = next(batches)
        for parameters in optimizer.param_groups:
            parameters["lr"] = schedule.rate((step + 0.5) / n_steps)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            losses.append(learn(batch.to(device, memory_format=torch.channels_last), targets.to(device)))
        optimizer.step()
        progress(f"step {step + 1} of {n_steps}", (step + 1) / n_steps)
    lay_out_(module.to("cpu"), torch.contiguous_format)
    module.eval()
    last = losses[-max(1, n_steps // 10) :]
    return sum(last) / len(last) if last else 0.0


def fine_tune_to(
    module: nn.Module,
    images: ByteArray,  # shape: (n, height, width)
    labels: ByteArray,  # shape: (n,)
    *,
    goal: float,
    judge: Callable[[nn.Module], float],
    ladder: Sequence[int] = LADDER,
    schedule: Schedule = FINE_TUNING,
    device: torch.device,
    bfloat16: bool,
) -> FineTuned:
    """Fine-tune copies of `module` for ever more steps until one is good enough; each copy has a schedule of its own.

    Args:
        module: not changed.
        images, labels: to train on.
        goal: accuracy to reach, 0 to 1.
        judge: accuracy of a module on images that are not trained on.
        ladder: increasing numbers of steps to try; zero steps are tried first.
        schedule, device, bfloat16: as in `train_steps_`.

    Returns:
        The first copy that reaches the goal, else the best one, with the cost of that run alone: what somebody pays
        who knows beforehand how many steps are needed.
    """
    best = FineTuned(module, 0, 0.0, judge(module), False)
    if best.accuracy >= goal:
        return replace(best, is_reached=True)
    for n_steps in ladder:
        candidate = copy.deepcopy(module)
        started = time.perf_counter()
        train_steps_(candidate, images, labels, n_steps=n_steps, schedule=schedule, device=device, bfloat16=bfloat16)
        seconds = time.perf_counter() - started
        found = judge(candidate)
        if found >= goal:
            return FineTuned(candidate, n_steps, seconds, found, True)
        if found > best.accuracy:
            best = FineTuned(candidate, n_steps, seconds, found, False)
    return best


def endless_batches(images: ByteArray, labels: ByteArray, schedule: Schedule) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches, epoch after epoch; what comes depends only on the schedule's seed and batch size."""
    epoch = 0
    while True:
        yield from augmented_batches(images, labels, schedule, epoch)
        epoch += 1


def _cross_entropy(module: nn.Module, schedule: Schedule) -> Backward:
    def backward(batch: Tensor, targets: Tensor) -> float:
        logits = module(batch).float()
        loss = functional.cross_entropy(logits, targets, label_smoothing=schedule.label_smoothing)
        torch.autograd.backward(loss)
        return float(loss.detach())

    return backward
