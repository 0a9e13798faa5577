"""Train every size of an integral network at once: the sandwich rule with in-place distillation.

A step trains the full network on the task, and a few random sizes, often the smallest, on what the full network says
of the same batch. Without labels a frozen copy of the full network teaches all sizes, the full one included. That all
sizes agree follows from |Net(X, P1) - Net(X, P2)| <= |Net(X, P1) - Y| + |Net(X, P2) - Y|.

In several processes, pass the network inside `DistributedDataParallel`: every forward pass goes through the module that
is given, so gradients are averaged at every size, and all processes draw the same sizes.

A run may be killed at any time: it goes on from its last saved state and ends with the parameters that it would have
had (on one machine, with one number of threads).

Source: Solodskikh et al., CVPR 2023, Algorithm 1 (random partitions); Yu and Huang, arXiv 1903.05134 (sandwich rule,
in-place distillation).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from inn_core.divergence import OutputKind, divergence
from inn_core.engine import Engine
from inn_core.errors import InvalidTrainingError
from inn_core.integral import IntegralNetwork
from inn_core.network import Sizes
from inn_core.optimisation import decayed_parameters, one_cycle_rate
from inn_core.progress import Progress, no_progress
from inn_core.statistics import output_kinds
from inn_core.training_state import restore_, save_state

SAVE_SECONDS = 60.0

Batch = tuple[tuple[Tensor, ...], Any]
"""Inputs in the order of the graph inputs, and whatever the task loss makes of the rest (labels)."""

TaskLoss = Callable[[Any, Any], Tensor]
"""From the network's output and a batch's targets to a scalar."""


class Batches(Protocol):
    """Training data. An epoch depends on its number alone, so that a run can be resumed."""

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch."""
        ...


@dataclass(frozen=True)
class SizeTraining:
    """Everything that decides a run besides the network and the data.

    Attributes:
        epochs: passes over the data.
        optimizer: `sgd` (Nesterov, momentum 0.9) or `adam` (AdamW).
        peak_rate: learning rate at the top of the cycle.
        warmup_share: share of the steps in which the rate climbs linearly from zero; it then falls linearly to zero.
        weight_decay: of every parameter with more than one axis.
        smaller_sizes: sizes in a step, beside the full one.
        task_share: of the task's loss in what the sizes below the full one learn from; the rest is distillation.
        bfloat16: compute in bfloat16 where autocast does; parameters stay float32.
    """

    epochs: int = 8
    optimizer: str = "sgd"
    peak_rate: float = 0.1
    warmup_share: float = 0.1
    weight_decay: float = 5e-4
    smaller_sizes: int = 3
    task_share: float = 0.0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adam"):
            raise InvalidTrainingError(f"optimizer {self.optimizer!r} is unknown; use sgd or adam")
        if self.epochs < 1 or self.smaller_sizes < 0:
            raise InvalidTrainingError(
                f"epochs is {self.epochs} and smaller_sizes {self.smaller_sizes}; give at least 1 and 0"
            )
        if not 0 <= self.warmup_share < 1 or not 0 <= self.task_share <= 1:
            raise InvalidTrainingError(
                f"warmup_share is {self.warmup_share} and task_share {self.task_share}; give shares from 0 to 1, and "
                "a warmup that ends"
            )
        if not 0 < self.peak_rate < math.inf or not 0 <= self.weight_decay < math.inf:
            raise InvalidTrainingError(
                f"peak_rate is {self.peak_rate} and weight_decay {self.weight_decay}; give a positive rate, and a "
                "decay that is not negative"
            )

    def rate(self, progress: float) -> float:
        """Learning rate when `progress` (0 to 1) of all steps are done."""
        return one_cycle_rate(progress, peak=self.peak_rate, warmup_share=self.warmup_share)


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
    nothing is normalised; a normalised node uses the statistics of each process's own part, as BatchNorm does there.

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
        after_epoch: called with the number of finished epochs and the mean loss of the full network in the last.

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
        **inner.identity(),
    }
    step = restore_(state_path, inner, optimizer, identity)
    if not _is_first(network):
        state_path = None
    saved_at = time.monotonic()
    network.train()
    for epoch in range(step // len(batches), settings.epochs):
        total, count = 0.0, 0
        for inputs, targets in itertools.islice(batches.epoch(epoch), step - epoch * len(batches), None):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate((step + 0.5) / n_steps)
            total += sandwich_step(network, inputs, targets, settings=settings, task_loss=task_loss, teacher=teacher)
            count += 1
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            progress(f"epoch {epoch + 1} of {settings.epochs}", step / n_steps)
            if state_path is not None and time.monotonic() - saved_at > SAVE_SECONDS:
                save_state(state_path, inner, optimizer, identity, step)
                saved_at = time.monotonic()
        if state_path is not None:
            save_state(state_path, inner, optimizer, identity, step)
            saved_at = time.monotonic()
        if after_epoch is not None and count:
            after_epoch(epoch + 1, total / count)
    network.eval()


def sandwich_step(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    targets: Any,
    *,
    settings: SizeTraining,
    task_loss: TaskLoss | None,
    teacher: Teacher | None = None,
) -> float:
    """Add the gradients of one batch at all sizes of a step; returns the full network's loss.

    Each size runs forwards and backwards before the next, so memory is that of the full network alone.

    Args:
        network: as in `train_sizes_`. Of several processes, gradients and the loss are the mean.

    Raises:
        InvalidTrainingError: the loss is not finite, in all processes at once; or the module wraps no integral network.
    """
    device = inputs[0].device
    inner = unwrapped(network)

    def run(sizes: Sizes) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
            return named_outputs(inner, network(*inputs, sizes=sizes))

    full = run(inner.full_sizes)
    kinds = teacher.kinds if teacher is not None else output_kinds(inner.program(), full)
    if task_loss is not None:
        reference = {name: output.detach() for name, output in full.items()}
        loss = task_loss(_unnamed(full), targets)
    else:
        assert teacher is not None
        reference = teacher(*inputs)
        loss = divergences(reference, full, kinds)
    value = _mean_of_processes(network, loss.detach())
    if not math.isfinite(value):
        raise InvalidTrainingError(
            f"the loss of the full network is {value}; lower the learning rate (peak_rate {settings.peak_rate})"
        )
    torch.autograd.backward(loss)
    for sizes in inner.sandwich(smaller=settings.smaller_sizes):
        sized = run(sizes)
        loss = divergences(reference, sized, kinds)
        if task_loss is not None and settings.task_share:
            loss = torch.lerp(loss, task_loss(_unnamed(sized), targets), settings.task_share)
        torch.autograd.backward(loss)
    return value


def unwrapped(network: nn.Module) -> IntegralNetwork:
    """The integral network inside of modules that wrap it and have it as `.module`.

    Raises:
        InvalidTrainingError: there is none.
    """
    found: object = network
    while isinstance(found, nn.Module) and not isinstance(found, IntegralNetwork):
        found = getattr(found, "module", None)
    if not isinstance(found, IntegralNetwork):
        raise InvalidTrainingError(
            f"{type(network).__name__} is no IntegralNetwork and wraps none as `.module`; pass the network, or "
            "DistributedDataParallel(network)"
        )
    return found


class Teacher:
    """The full network as its checkpoint has it, frozen, without normalisation: the same after a resumption."""

    def __init__(self, network: IntegralNetwork) -> None:
        self._engine = Engine.of(network.checkpoint, network.draws_taken.device)
        self._weights = {
            name: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
            for name, tensor in self._engine.weights.items()
        }
        self.kinds: dict[str, OutputKind] = {}

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Outputs by name."""
        program = self._engine.program
        outputs = program.run(self._weights, dict(zip(program.inputs, inputs, strict=True)))
        if not self.kinds:
            self.kinds.update(output_kinds(program, outputs))
        return outputs


def make_optimizer(network: torch.nn.Module, settings: SizeTraining) -> torch.optim.Optimizer:
    """The optimizer of a run; biases, scales and shifts are not decayed."""
    groups = decayed_parameters(network, settings.weight_decay)
    if settings.optimizer == "adam":
        return torch.optim.AdamW(groups, lr=0.0)
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)


def divergences(full: dict[str, Tensor], sized: dict[str, Tensor], kinds: dict[str, OutputKind]) -> Tensor:
    """Sum over the outputs of the mean divergence of the batch, a scalar."""
    if not kinds:
        raise InvalidTrainingError("the network has no output of floating point, so there is nothing to learn from")
    parts = [divergence(full[name].float(), sized[name].float(), kind).mean() for name, kind in kinds.items()]
    return torch.stack(parts).sum()


def named_outputs(network: IntegralNetwork, outputs: Any) -> dict[str, Tensor]:
    """Outputs of the module by the names of the graph outputs."""
    names = [value.name for value in network.checkpoint.template.model.graph.output]
    return dict(zip(names, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))


def _mean_of_processes(network: nn.Module, value: Tensor) -> float:
    """A number's mean over the processes that train a wrapped network together; the number itself in one process."""
    group = getattr(network, "process_group", None)
    if group is not None:
        value = value.clone()
        torch.distributed.all_reduce(value, group=group)
        value /= torch.distributed.get_world_size(group)
    return float(value)


def _is_first(network: nn.Module) -> bool:
    """Whether this is the first of the processes that train a wrapped network together, or the only one."""
    group = getattr(network, "process_group", None)
    return group is None or torch.distributed.get_rank(group) == 0


def _unnamed(outputs: dict[str, Tensor]) -> Any:
    """Inverse of `named_outputs`."""
    values = tuple(outputs.values())
    return values[0] if len(values) == 1 else values
