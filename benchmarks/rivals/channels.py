"""Channels of a torch module in the order of their filters' size, so that its first ones are worth keeping.

Which channels belong together is read from the groups of the imported network, whose tensors have the names of the
module's parameters; BatchNorm, which the import folds away, is found by running the module once.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.structure import Group


def ordered_by_norm(module: nn.Module, checkpoint: Checkpoint) -> nn.Module:
    """A copy that computes the same function, every group of channels sorted by falling filter norm.

    Args:
        module: in eval mode; takes images of shape `(batch, 1, 28, 28)`.
        checkpoint: its import: template, weights and structure are looked at.

    Returns:
        The copy. The norm of a channel is that of the filters that write it, BatchNorm folded in.

    Raises:
        ValueError: a tensor of a group is not a parameter of the module of the same shape.
    """
    norms = _norms_behind(module)
    result = copy.deepcopy(module)
    state = result.state_dict()
    for group in checkpoint.structure.groups:
        order = torch.from_numpy(np.argsort(-_energy(checkpoint, group), kind="stable"))
        for tensor, axis in group.places:
            if checkpoint.weights[tensor].ndim > 1 or tensor in state:
                _permute_(state, tensor, axis, order, checkpoint)
            layer = tensor.removesuffix(".weight")
            if checkpoint.weights[tensor].ndim > 1 and axis == 0 and layer in norms:
                behind = [f"{norms[layer]}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
                for name in (*behind, f"{layer}.bias"):
                    if name in state:
                        state[name] = state[name][order]
    result.load_state_dict(state)
    return result.eval()


def _energy(checkpoint: Checkpoint, group: Group) -> NDArray[np.float64]:
    energy = np.zeros(group.size)
    for tensor, axis in group.places:
        weight = checkpoint.weights[tensor]
        if axis == 0 and weight.ndim > 1:
            energy += np.square(weight.astype(np.float64).reshape(group.size, -1)).sum(1)
    return energy


def _permute_(state: dict[str, Tensor], tensor: str, axis: int, order: Tensor, checkpoint: Checkpoint) -> None:
    shape = checkpoint.weights[tensor].shape
    if tensor not in state or tuple(state[tensor].shape) != shape or shape[axis] != len(order):
        found = tuple(state[tensor].shape) if tensor in state else "missing"
        raise ValueError(f"parameter '{tensor}' of the module is {found}, the imported one has shape {shape}")
    state[tensor] = state[tensor].index_select(axis, order)


def _norms_behind(module: nn.Module) -> dict[str, str]:
    """Name of each convolution -> name of the BatchNorm that reads its output."""
    outputs: list[tuple[Tensor, str]] = []
    found: dict[str, str] = {}
    names = {layer: name for name, layer in module.named_modules()}

    def remember(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs.append((output, names[layer]))

    def look_up(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for output, name in outputs:
            if output is inputs[0]:
                found[name] = names[layer]

    handles: list[Any] = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            handles.append(layer.register_forward_hook(remember))
        elif isinstance(layer, nn.BatchNorm2d):
            handles.append(layer.register_forward_pre_hook(look_up))
    try:
        with torch.no_grad():
            module(torch.zeros(1, 1, 28, 28))
    finally:
        for handle in handles:
            handle.remove()
    return found
