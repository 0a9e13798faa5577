"""Fine-tune a given module for the fewest steps that reach an accuracy.

Effort is counted in gradient steps (those of `models.recipes.classifier`), so that methods can be compared after
equally many.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from inn_core.training.recipes.images import ByteArray, Schedule
from models.recipes.classifier import train_steps_

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
