"""Train every size of an integral network at once, step by step as `inn_core.training.step` has it.

In several processes, pass the network inside `DistributedDataParallel`: every forward pass goes through the module that
is given, so gradients are averaged at every size, and all processes draw the same sizes.

A run may be killed at any time: it goes on from its last saved state and ends with the parameters that it would have
had (on one machine, with one number of threads).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from inn_core.errors import InvalidTrainingError
from inn_core.progress import Progress, no_progress
from inn_core.training.averaging import RunningAverage
from inn_core.training.settings import SizeTraining, decayed_parameters
from inn_core.training.state import RunState
from inn_core.training.step import STEPS, TaskLoss, Teacher, is_first, unwrapped

Batch = tuple[tuple[Tensor, ...], Any]
"""Inputs in the order of the graph inputs, and whatever the task loss makes of the rest (labels)."""


class Batches(Protocol):
    """Training data. An epoch depends on its number alone, so that a run can be resumed."""

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch."""
        ...


def train_sizes_(
    network: nn.Module,
    batches: Batches,
    *,
    settings: SizeTraining,
    task_loss: TaskLoss | None = None,
    state_path: Path | None = None,
    progress: Progress = no_progress,
    after_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Train a network in place; it ends in evaluation mode, with the statistics of its sizes yet to be measured.

    In several processes all end with the same parameters. They are those of one process on the joined batches where
    nothing is normalized; a normalized node uses the statistics of each process's own part, as BatchNorm does there.

    Args:
        network: an `IntegralNetwork` on the device to train on, or a module that wraps one and has it as `.module`,
            such as `DistributedDataParallel`.
        batches: the data; in several processes, the part of this one, as many batches of the same size as the others'.
        settings: of the run.
        task_loss: what the full network is trained on; None trains without labels, on the network of the checkpoint
            that the module was made from.
        state_path: where the run saves its state, every minute and after every epoch, and resumes from; all processes
            read it, the first one writes it.
        progress: told the epoch and the finished share.
        after_epoch: called with the number of finished epochs and the mean loss in the last, of the full network or,
            by the rule `random`, of the sizes that were drawn.

    Raises:
        TrainingStateError: `state_path` belongs to another run.
        InvalidTrainingError: the loss is not finite, there are no batches, or the module wraps no integral network.
    """
    inner = unwrapped(network)
    teacher = None if task_loss is not None else Teacher(inner)
    optimizer = make_optimizer(inner, settings)
    if not len(batches):
        raise InvalidTrainingError("an epoch has no batches; give more samples or a smaller batch")
    n_steps = settings.epochs * len(batches)
    identity = {
        **asdict(settings),
        "labels": task_loss is not None,
        "steps": n_steps,
        "kind": "sizes",
        "temperature": 1.0,  # of distillation, once a setting: states of runs that left it alone still go on
        **inner.identity(),
    }
    average = RunningAverage(inner, settings.average_share)
    run = nn.ModuleList([inner, average])
    state = RunState(state_path, run, optimizer, identity, is_written=is_first(network))
    step = state.steps
    take_step = STEPS[settings.rule]
    network.train()
    for epoch in range(step // len(batches), settings.epochs):
        total, count = 0.0, 0
        for inputs, targets in itertools.islice(batches.epoch(epoch), step - epoch * len(batches), None):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate((step + 0.5) / n_steps)
            total += take_step(network, inputs, targets, settings=settings, task_loss=task_loss, teacher=teacher)
            count += 1
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.add_()
            step += 1
            progress(f"epoch {epoch + 1} of {settings.epochs}", step / n_steps)
            state.save_now_and_then(step)
        state.save(step)
        if after_epoch is not None and count:
            after_epoch(epoch + 1, total / count)
    average.apply_()
    network.eval()


def make_optimizer(network: torch.nn.Module, settings: SizeTraining) -> torch.optim.Optimizer:
    """The optimizer of a run; biases, scales and shifts are not decayed."""
    groups = decayed_parameters(network, settings.weight_decay)
    if settings.optimizer == "adam":
        return torch.optim.AdamW(groups, lr=0.0)
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
