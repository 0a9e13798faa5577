"""Samplers: from the weights of an integral network to those of a size, differentiably.

Every weight axis that follows a group is sampled. *Nested* sampling keeps the first channels of the group's nested
order: a partition that lies exactly at nodes. *Kernel* sampling evaluates the integral kernel between the nodes, at
the points of a partition, and weighs the axes that a layer integrates over with its quadrature (`kernel.py`).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.axis import Axis, axis_groups, axis_size, kept_indices
from inn_core.graph.structure import Group, Sizes
from inn_core.integral.selection import selections


class Sampler(Protocol):
    """Takes weights at a size."""

    def sized(self, tensor: Tensor, axes: tuple[Axis, ...], sizes: Sizes, *, integrated: int | None = None) -> Tensor:
        """A full-size tensor at a size.

        Args:
            tensor: one axis for each of `axes`.
            axes: what the axes follow.
            sizes: of every group.
            integrated: position of the axis that the layer integrates over, if any.

        Returns:
            A tensor with the sizes of the axes; gradients reach `tensor`.
        """
        ...

    def carried(self, values: Tensor, axis: Axis, source: Sizes, target: Sizes) -> tuple[Tensor, Tensor]:
        """Values of the channels of one plan in the channels of another.

        Args:
            values: one for each channel along the axis at the plan `source`.
            axis: what the channels follow.
            source, target: sizes of every group.

        Returns:
            Values for the plan `target`, and which of them `source` knows (booleans); the others mean nothing.
        """
        ...

    def largest(self, group: Group) -> int:
        """The largest size that the sampler gives a group."""
        ...

    def describe(self) -> dict[str, str]:
        """What a checkpoint keeps of the sampler, JSON members; `kind` says which it is."""
        ...


class NestedSampler:
    """Keeps the first channels of every group's nested order, in the order of the full network."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._orders = checkpoint.orders
        self._full = checkpoint.structure.full_sizes()

    def sized(self, tensor: Tensor, axes: tuple[Axis, ...], sizes: Sizes, *, integrated: int | None = None) -> Tensor:
        """See `Sampler.sized`; nothing is weighed."""
        for position, axis in enumerate(axes):
            names = axis_groups(axis)
            if all(sizes[name] == self._full[name] for name in names):
                continue
            tensor = tensor.index_select(position, self._kept(axis, sizes, tensor.device))
        return tensor

    def carried(self, values: Tensor, axis: Axis, source: Sizes, target: Sizes) -> tuple[Tensor, Tensor]:
        """See `Sampler.carried`: a plan knows the channels that it keeps."""
        if all(source[name] == target[name] for name in axis_groups(axis)):
            return values, torch.ones_like(values, dtype=torch.bool)
        size = axis_size(axis, self._full)
        place = torch.full((size,), -1, dtype=torch.int64, device=values.device)
        place[self._kept(axis, source, values.device)] = torch.arange(len(values), device=values.device)
        found = place[self._kept(axis, target, values.device)]
        return values[found.clamp_min(0)], found >= 0

    def largest(self, group: Group) -> int:
        """See `Sampler.largest`: that of the full network."""
        return group.size

    def describe(self) -> dict[str, str]:
        """See `Sampler.describe`."""
        return {"kind": "nested"}

    def _kept(self, axis: Axis, sizes: Sizes, device: torch.device) -> Tensor:
        """Kept positions along a full axis."""
        kept = selections({name: self._orders[name] for name in axis_groups(axis)}, sizes)
        return torch.from_numpy(kept_indices(axis, self._full, kept)).to(device)
