"""One step of training a network's sizes: the sandwich rule with in-place distillation, or one random size.

A step of the sandwich rule trains the full network on the task, and a few random sizes, often the smallest, on what the
full network says of the same batch. Without labels a frozen copy of the full network teaches all sizes, the full one
included. That all sizes agree follows from |Net(X, P1) - Net(X, P2)| <= |Net(X, P1) - Y| + |Net(X, P2) - Y|. A step of
Algorithm 1 trains one random size on the task alone: it costs less, and teaches one size instead of several.

Source: Solodskikh et al., CVPR 2023, Algorithm 1 (random partitions); Yu and Huang, arXiv 1903.05134 (sandwich rule,
in-place distillation); Hinton et al., arXiv 1503.02531 (distillation).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from inn_core.errors import InvalidTrainingError
from inn_core.fitting.channel_statistics import output_kinds
from inn_core.fitting.divergence import OutputKind, divergence
from inn_core.fitting.runtime import LoadedNetwork
from inn_core.graph.structure import Sizes
from inn_core.training.integral_network import IntegralNetwork
from inn_core.training.settings import RULES, SizeTraining

TaskLoss = Callable[[Any, Any], Tensor]
"""From the network's output and a batch's targets to a scalar."""


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
    inner = unwrapped(network)
    full = _run(network, inputs, inner.full_sizes, settings)
    reference, kinds, loss = _taught(inner, full, inputs, targets, task_loss=task_loss, teacher=teacher)
    value = _finite(network, loss, settings, of="the full network")
    torch.autograd.backward(loss)
    for sizes in inner.sandwich(smaller=settings.smaller_sizes):
        sized = _run(network, inputs, sizes, settings)
        loss = divergences(reference, sized, kinds)
        if task_loss is not None and settings.task_share:
            loss = torch.lerp(loss, task_loss(_unnamed(sized), targets), settings.task_share)
        torch.autograd.backward(loss)
    return value


def random_step(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    targets: Any,
    *,
    settings: SizeTraining,
    task_loss: TaskLoss | None,
    teacher: Teacher | None = None,
) -> float:
    """Add the gradients of one batch at one random size (Algorithm 1 of the paper); returns the loss there.

    Arguments and errors are those of `sandwich_step`.
    """
    inner = unwrapped(network)
    sized = _run(network, inputs, inner.sample_sizes(), settings)
    _, _, loss = _taught(inner, sized, inputs, targets, task_loss=task_loss, teacher=teacher)
    value = _finite(network, loss, settings, of="a random size")
    torch.autograd.backward(loss)
    return value


STEPS = dict(zip(RULES, (sandwich_step, random_step), strict=True))
"""How each rule takes a step."""


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
    """The full network as its checkpoint has it, frozen, without normalization: the same after a resumption."""

    def __init__(self, network: IntegralNetwork) -> None:
        self._engine = LoadedNetwork.of(network.checkpoint, network.draws_taken.device)
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


def _run(network: nn.Module, inputs: tuple[Tensor, ...], sizes: Sizes, settings: SizeTraining) -> dict[str, Tensor]:
    """Outputs of a forward pass in the precision of the run, by name."""
    with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=settings.bfloat16):
        return named_outputs(unwrapped(network), network(*inputs, sizes=sizes))


def _taught(
    network: IntegralNetwork,
    outputs: dict[str, Tensor],
    inputs: tuple[Tensor, ...],
    targets: Any,
    *,
    task_loss: TaskLoss | None,
    teacher: Teacher | None,
) -> tuple[dict[str, Tensor], dict[str, OutputKind], Tensor]:
    """What sizes of these inputs are compared with, what kinds its outputs are, and the loss of `outputs`.

    With a task that are `outputs` themselves, whose loss is the task's; without, what the teacher says.
    """
    if task_loss is not None:
        reference = {name: output.detach() for name, output in outputs.items()}
        return reference, output_kinds(network.program(), outputs), task_loss(_unnamed(outputs), targets)
    assert teacher is not None
    reference = teacher(*inputs)
    return reference, teacher.kinds, divergences(reference, outputs, teacher.kinds)


def _finite(network: nn.Module, loss: Tensor, settings: SizeTraining, *, of: str) -> float:
    """The loss as a number, the mean of all processes; refused unless it is finite."""
    value = _mean_of_processes(network, loss.detach())
    if not math.isfinite(value):
        raise InvalidTrainingError(
            f"the loss of {of} is {value}; lower the learning rate (peak_rate {settings.peak_rate})"
        )
    return value


def _mean_of_processes(network: nn.Module, value: Tensor) -> float:
    """A number's mean over the processes that train a wrapped network together; the number itself in one process."""
    group = getattr(network, "process_group", None)
    if group is not None:
        value = value.clone()
        torch.distributed.all_reduce(value, group=group)
        value /= torch.distributed.get_world_size(group)
    return float(value)


def is_first(network: nn.Module) -> bool:
    """Whether this is the first of the processes that train a wrapped network together, or the only one."""
    group = getattr(network, "process_group", None)
    return group is None or torch.distributed.get_rank(group) == 0


def _unnamed(outputs: dict[str, Tensor]) -> Any:
    """Inverse of `named_outputs`."""
    values = tuple(outputs.values())
    return values[0] if len(values) == 1 else values
