"""Sampling: take from every weight the positions that a plan keeps (the P of W' = P W; see docs/method.md)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from inn_core.arrays import IntArray
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.axis import axis_groups, kept_indices
from inn_core.graph.structure import Structure


def selections(orders: Mapping[str, IntArray], sizes: Mapping[str, int]) -> dict[str, IntArray]:
    """Kept positions of every group: the first `sizes[g]` of its nested order, sorted.

    Sorting keeps neighbours in memory together and makes the full size the identity.
    """
    return {name: np.sort(order[: sizes[name]]) for name, order in orders.items()}


def axis_selection(
    structure: Structure, tensor_axes: tuple[tuple[tuple[str | int, ...], ...], ...], kept: Mapping[str, IntArray]
) -> list[IntArray | None]:
    """Kept positions along every axis of a tensor; None where the axis keeps all of them."""
    full = structure.full_sizes()
    return [kept_indices(axis, full, kept) if axis_groups(axis) else None for axis in tensor_axes]


def take(tensor: torch.Tensor, chosen: list[IntArray | None]) -> torch.Tensor:
    """The tensor at the kept positions of every axis; the tensor itself when every axis keeps all."""
    for axis, indices in enumerate(chosen):
        if indices is not None and (
            len(indices) != tensor.shape[axis] or not np.array_equal(indices, np.arange(tensor.shape[axis]))
        ):
            tensor = tensor.index_select(axis, torch.from_numpy(indices).to(tensor.device))
    return tensor


def sample_weights(
    checkpoint: Checkpoint, kept: Mapping[str, IntArray], weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Every weight at the kept positions of all its axes, before any least squares."""
    axes = checkpoint.structure.weights
    return {
        name: take(weight, axis_selection(checkpoint.structure, axes[name], kept)) for name, weight in weights.items()
    }
