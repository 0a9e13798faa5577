"""Train a given module for a number of steps, or for the fewest steps that reach an accuracy.

The steps are those of `inn_core.training.recipes.classifier` (same batches, optimizer and shape of the schedule),
counted in gradient steps instead of epochs, so that methods can be compared after equally many.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from inn_core.progress import Progress, no_progress
from inn_core.training.averaging import RunningAverage
from inn_core.training.optimisation import decayed_parameters
from inn_core.training.recipes.classifier import ByteArray, Schedule, augmented_batches, lay_out_
from inn_core.training.state import RunState

Backward = Callable[[Tensor, Tensor, int], float]
"""Adds the gradients of one batch (pixels, classes, number of the step) to the parameters and returns the loss."""

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
    state_path: Path | None = None,
    run: str = "",
    progress: Progress = no_progress,
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
        state_path: written every minute and at the end; when it exists the run continues behind it.
        run: what decides the run beside these arguments, so that the state of another one is never gone on with.
        progress: told the finished share.

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
        save = state.save if step + 1 == n_steps else state.save_now_and_then
        save(step + 1)
        progress(f"step {step + 1} of {n_steps}", (step + 1) / n_steps)
    average.apply_()
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
