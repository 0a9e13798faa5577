"""Kernel sampling: a size of a network from its integral kernels, as in the paper.

Every group has a smoothing order, in which its channels are the nodes of kernels, and at every size a partition of
[0, 1]: uniform, or tuned at a few sizes and carried to the others. Axes that a layer integrates over are weighed with
the quadrature of the partition; all other axes are interpolated only.

Source: Solodskikh et al., *Integral Neural Networks*, CVPR 2023, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from inn_core.arrays import IntArray
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import PartitionError
from inn_core.graph.axis import Axis, axis_groups, axis_size
from inn_core.graph.structure import Group, Sizes
from inn_core.integral.interpolation import Grid, Interpolation, Taps
from inn_core.integral.kernel import KernelSampling, integrate_taps, sample_taps
from inn_core.integral.partition import Partition, TrainablePartition, uniform_partition, warp
from inn_core.integral.quadrature import Quadrature

MOST_OVERSAMPLING = 4
"""Largest size of a group over its native size."""

_DENSE_ELEMENTS = 2**18  # of a matrix; above it, its few entries a row are faster, and take no memory to speak of
_ELEMENTS_KEPT = 2**25  # in the matrices of partitions, 128 MiB; random sizes come again
_FEWEST_POINTS = 2  # below it a partition has nothing to tune


class KernelSampler(nn.Module):
    """Evaluates integral kernels at partitions.

    Args:
        checkpoint: whose groups.
        orders: smoothing order of every group, a permutation of its channels.
        sampling: interpolation, quadrature and grid of all kernels.
        tuned: `group -> edges of tuned partitions`, each shape `(cells + 1,)`, one for each size at which it was
            tuned. Between two such sizes, and up to the native one, which is uniform, edges are interpolated.

    Attributes:
        live: partitions being tuned, one for each group and for one size; they come before all others.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        orders: Mapping[str, IntArray],
        *,
        sampling: KernelSampling | None = None,
        tuned: Mapping[str, list[Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.sampling = sampling or KernelSampling()
        self.orders = {name: torch.from_numpy(order.copy()) for name, order in orders.items()}
        self.tuned = {name: sorted(edges, key=len) for name, edges in (tuned or {}).items()}
        self.live = nn.ModuleDict()
        self._matrices: dict[tuple[object, ...], Tensor | Taps] = {}  # the most recently used last
        self._elements = 0
        self._full = checkpoint.structure.full_sizes()
        self._keys = {group.name: f"group{index}" for index, group in enumerate(checkpoint.structure.groups)}

    def sized(self, tensor: Tensor, axes: tuple[Axis, ...], sizes: Sizes, *, integrated: int | None = None) -> Tensor:
        """See `Sampler.sized`; a group that is below or above its native size comes in the smoothing order."""
        for position, axis in enumerate(axes):
            if any(not self._is_native(name, sizes[name]) for name in axis_groups(axis)):
                is_integrated = position == integrated
                matrices = {
                    name: self._matrix(name, sizes[name], tensor, is_integrated=is_integrated)
                    for name in axis_groups(axis)
                }
                tensor = _along(tensor, position, axis, self._full, matrices)
        return tensor

    def carried(self, values: Tensor, axis: Axis, source: Sizes, target: Sizes) -> tuple[Tensor, Tensor]:
        """See `Sampler.carried`: linear interpolation between the points of the one partition at those of the other."""
        if all(source[name] == target[name] for name in axis_groups(axis)):
            return values, torch.ones_like(values, dtype=torch.bool)

        matrices = {
            name: _linear_taps(self._places(name, source[name], values), self._places(name, target[name], values))
            if source[name] != target[name]
            else None
            for name in axis_groups(axis)
        }
        carried = _along(values, 0, axis, source, matrices)
        return carried, torch.ones_like(carried, dtype=torch.bool)

    def largest(self, group: Group) -> int:
        """See `Sampler.largest`: kernels can be sampled more finely than they were trained."""
        return MOST_OVERSAMPLING * group.size

    def describe(self) -> dict[str, str]:
        """See `Sampler.describe`."""
        sampling = self.sampling
        return {
            "kind": "kernel",
            "interpolation": str(sampling.interpolation),
            "quadrature": str(sampling.quadrature),
            "grid": str(sampling.grid),
        }

    def partition(self, group: str, size: int, like: Tensor) -> Partition:
        """The partition of a group at a size, in the dtype and on the device of a tensor."""
        key = self._keys[group]
        if key in self.live and len(found := self.live[key]()) == size:
            return Partition(found.points.to(like.device, like.dtype), found.weights.to(like.device, like.dtype))
        rule = {"quadrature": self.sampling.quadrature, "grid": self.sampling.grid}
        edges = self._edges(group, size)
        if edges is None:
            return uniform_partition(size, dtype=like.dtype, device=like.device, **rule)  # type: ignore[arg-type]
        with torch.no_grad():
            tuned: Partition = TrainablePartition.from_edges(edges, **rule)()  # type: ignore[arg-type]
        return Partition(tuned.points.to(like.device, like.dtype), tuned.weights.to(like.device, like.dtype))

    def tune_(self, sizes: Sizes) -> list[nn.Parameter]:
        """Make the partitions of one plan trainable, starting from what they are; returns their parameters.

        Raises:
            PartitionError: the grid's points are the edges of cells; only cell-centred partitions are tuned.
        """
        if self.sampling.grid is not Grid.CELL_CENTRED:
            raise PartitionError(f"partitions on grid '{self.sampling.grid}' are not tuned; use {Grid.CELL_CENTRED}")
        self.end_tuning_()
        for name, size in sizes.items():
            if _FEWEST_POINTS <= size < self._full[name]:
                edges = self._edges(name, size)
                start = torch.linspace(0, 1, size + 1, dtype=torch.float64) if edges is None else edges
                # only ratios of deltas matter; around 1 a learning rate means the same at every size
                self.live[self._keys[name]] = TrainablePartition((start.diff() * size).sqrt().float())
        return list(self.live.parameters())

    def settle_(self) -> None:
        """Keep the partitions that were tuned, and end the tuning."""
        for name, key in self._keys.items():
            if key not in self.live:
                continue
            edges = cast(TrainablePartition, self.live[key]).edges().detach().cpu()
            others = [known for known in self.tuned.get(name, []) if len(known) != len(edges)]
            self.tuned[name] = sorted([*others, edges], key=len)
        self.end_tuning_()

    def end_tuning_(self) -> None:
        """End the tuning without keeping its partitions."""
        self.live = nn.ModuleDict()
        self._matrices.clear()
        self._elements = 0

    def _is_native(self, group: str, size: int) -> bool:
        """Whether a group is at its native size, where its channels stay as they are, in the order of the network."""
        return size == self._full[group]

    def _places(self, group: str, size: int, like: Tensor) -> Tensor:
        """Points of the channels at a size; at the native size, which is not in smoothing order, of the order's."""
        points = self.partition(group, size, like).points.detach()
        if not self._is_native(group, size):
            return points
        places = torch.empty_like(points)
        places[self.orders[group].to(points.device)] = points
        return places

    def _matrix(self, group: str, size: int, like: Tensor, *, is_integrated: bool) -> Tensor | Taps | None:
        """From the channels of a group to those of a size, shape `(size, native)`; None at the native size.

        A dense matrix, or taps where it would be large: a file may ask for a group of any size.
        """
        if self._is_native(group, size):
            return None
        is_fixed = self._keys[group] not in self.live
        key = (group, size, is_integrated, like.dtype, like.device)
        found = self._matrices.pop(key, None) if is_fixed else None
        if found is not None:
            self._elements -= _n_elements(found)
        else:
            with torch.inference_mode(False):  # it is kept, and training may need it next
                precise = torch.empty(0, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
                partition = self.partition(group, size, precise)
                rule = integrate_taps if is_integrated else sample_taps
                taps = rule(partition, self._full[group], self.sampling)
                order = self.orders[group].to(like.device)
                found = Taps(order[taps.nodes], taps.coefficients.to(like.dtype), taps.n_nodes)
                if size * taps.n_nodes <= _DENSE_ELEMENTS:
                    found = found.matrix()
        if is_fixed:
            self._matrices[key] = found
            self._elements += _n_elements(found)
            while self._elements > _ELEMENTS_KEPT and len(self._matrices) > 1:
                self._elements -= _n_elements(self._matrices.pop(next(iter(self._matrices))))
        return found

    def _edges(self, group: str, size: int) -> Tensor | None:
        """Edges of the cells of a group at a size; None stands for uniform ones."""
        known = self.tuned.get(group)
        native = self._full[group]
        if not known or size >= native:
            return None
        exact = next((edges for edges in known if len(edges) == size + 1), None)
        if exact is not None:
            return exact
        uniform = torch.linspace(0, 1, native + 1, dtype=torch.float64)
        above = next((edges for edges in known if len(edges) > size + 1), uniform)
        below = next((edges for edges in reversed(known) if len(edges) < size + 1), above)
        low, high = len(below) - 1, len(above) - 1
        share = (size - low) / (high - low) if high > low else 1.0
        edges = torch.lerp(warp(below, size), warp(above, size), share)
        edges[0], edges[-1] = 0.0, 1.0
        return edges


def _along(
    tensor: Tensor, position: int, axis: Axis, full: Sizes, matrices: Mapping[str, Tensor | Taps | None]
) -> Tensor:
    """Apply the matrix of every group of an axis: segment by segment, factor by factor."""
    if len(axis) == 1 and len(axis[0]) == 1:
        (name,) = axis[0]
        matrix = matrices[name] if isinstance(name, str) else None
        return tensor if matrix is None else _contracted(tensor, position, matrix)
    lengths = [axis_size((segment,), full) for segment in axis]
    parts = []
    for segment, part in zip(axis, tensor.split(lengths, dim=position), strict=True):
        factors = [full[factor] if isinstance(factor, str) else factor for factor in segment]
        part = part.unflatten(position, factors)
        for place, factor in enumerate(segment):
            matrix = matrices[factor] if isinstance(factor, str) else None
            if matrix is not None:
                part = _contracted(part, position + place, matrix)
        parts.append(part.flatten(position, position + len(factors) - 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=position)


def _contracted(tensor: Tensor, position: int, matrix: Tensor | Taps) -> Tensor:
    """The matrix times the tensor along an axis.

    Dense products, although rows have at most four entries: up to some size they run at the speed of the processor,
    and are a small part of a step as long as a group is smaller than the positions of a batch. Weights whose channels
    come last in memory are read as they lie.
    """
    if isinstance(matrix, Taps):
        return matrix.apply(tensor, position)
    if position == 0:
        rest = tensor.movedim(1, -1) if tensor.ndim > 2 else tensor
        product = (matrix @ rest.reshape(rest.shape[0], -1)).reshape(len(matrix), *rest.shape[1:])
        return product.movedim(-1, 1) if tensor.ndim > 2 else product
    return (tensor.movedim(position, -1) @ matrix.T).movedim(-1, position)


def _n_elements(matrix: Tensor | Taps) -> int:
    return matrix.numel() if isinstance(matrix, Tensor) else matrix.nodes.numel() + matrix.coefficients.numel()


def _linear_taps(old: Tensor, new: Tensor) -> Taps:
    """Piecewise linear interpolation from values at `old` points to `new` ones, constant outside."""
    if len(old) == 1:
        return Taps(torch.zeros(len(new), 1, dtype=torch.int64, device=new.device), torch.ones_like(new)[:, None], 1)
    ranked = old.argsort()
    ordered = old[ranked]
    right = torch.searchsorted(ordered, new.contiguous()).clamp(1, len(old) - 1)
    left = right - 1
    gap = (ordered[right] - ordered[left]).clamp_min(torch.finfo(old.dtype).tiny)
    share = ((new - ordered[left]) / gap).clamp(0.0, 1.0)
    nodes = torch.stack([ranked[left], ranked[right]], 1)
    return Taps(nodes, torch.stack([1 - share, share], 1), len(old))


def sampling_from(description: Mapping[str, str]) -> KernelSampling:
    """Inverse of `KernelSampler.describe`; raises PartitionError on what this release does not know."""
    try:
        return KernelSampling(
            Interpolation(description["interpolation"]),
            Quadrature(description["quadrature"]),
            Grid(description["grid"]),
        )
    except (KeyError, ValueError) as error:
        raise PartitionError(
            f"the kernels were trained with {dict(description)}, which this release does not know; update it"
        ) from error
