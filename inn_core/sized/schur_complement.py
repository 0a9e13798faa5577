"""Reduce a stored network to a smaller plan in closed form: sample the kept channels, integrate over the removed ones.

With second moments S of the activations that a weight contracts, k the kept channels and r the removed ones,
W' = W_k + W_r X with X = S_rk (S_kk + rho I)^-1: the quadrature D* of Bayesian quadrature (docs/method.md), exact in
the least-squares sense for the stored network. No data is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from inn_core.arrays import Array, IntArray
from inn_core.caches import WeakCache
from inn_core.checkpoint.checkpoint import AnchorNetwork, Checkpoint, InputStatistics
from inn_core.fitting.channel_statistics import axis_layout, channel_axis
from inn_core.graph.axis import axis_groups, kept_indices
from inn_core.graph.linear_nodes import LinearNode, contracted_position, linear_nodes, weight_from_matrix, weight_matrix
from inn_core.graph.node import read_nodes

RIDGE = 1e-2  # of a channel's own power; correlations are stored in half precision, which it covers
LEAST_SCALE = 1e-15  # of a channel about zero: one that is always zero is not divided by


def dense_nodes(checkpoint: Checkpoint) -> dict[str, LinearNode]:
    """The dense linear node of each weight that no other node reads, by weight name."""
    return _dense_nodes(checkpoint)


def _find_dense_nodes(checkpoint: Checkpoint) -> dict[str, LinearNode]:
    nodes = read_nodes(checkpoint.template.model.graph)
    ranks = {name: torch.empty([0] * len(axes)) for name, axes in checkpoint.structure.weights.items()}
    reads: dict[str, int] = {}
    for node in nodes:
        for name in node.inputs:
            reads[name] = reads.get(name, 0) + 1
    entries = linear_nodes(nodes, ranks)
    return {e.weight: e for e in entries if reads[e.weight] == 1 and e.node.attributes.get("group", 1) == 1}


_dense_nodes = WeakCache(_find_dense_nodes)


def reduced_weights(
    checkpoint: Checkpoint, anchor: AnchorNetwork, sizes: Mapping[str, int], *, device: torch.device
) -> dict[str, torch.Tensor]:
    """Weights of a plan from an anchor that contains it; float32, on the device, none shared with the checkpoint."""
    kept = relative_selections(checkpoint.orders, anchor.sizes, sizes)
    dense = {name: entry for name, entry in dense_nodes(checkpoint).items() if name in anchor.inputs}
    stored = anchor.weights or checkpoint.weights
    result: dict[str, torch.Tensor] = {}
    for name, axes in checkpoint.structure.weights.items():
        contracted = contracted_position(dense[name]) if name in dense else None
        array = stored[name]
        for position, axis in enumerate(axes):
            if position != contracted and axis_groups(axis):
                chosen = kept_indices(axis, anchor.sizes, kept)
                if len(chosen) != array.shape[position]:
                    array = np.take(array, chosen, axis=position)
        result[name] = to_tensor(array, device)
    for entry in dense.values():
        _integrate_(checkpoint, anchor, entry, result, kept)
    return result


def relative_selections(
    orders: Mapping[str, IntArray], larger: Mapping[str, int], smaller: Mapping[str, int]
) -> dict[str, IntArray]:
    """Where the channels that a smaller plan keeps of every group stand among those of a larger one, both sorted."""
    return {
        name: np.searchsorted(np.sort(order[: larger[name]]), np.sort(order[: smaller[name]]))
        for name, order in orders.items()
    }


def to_tensor(array: Array, device: torch.device) -> torch.Tensor:
    """A float32 copy of an array on a device; those of a checkpoint are read-only views of its file."""
    return torch.from_numpy(array.astype(np.float32)).to(device)


def _integrate_(
    checkpoint: Checkpoint,
    anchor: AnchorNetwork,
    entry: LinearNode,
    weights: dict[str, torch.Tensor],
    kept: Mapping[str, IntArray],
) -> None:
    """Replace the contracted axis of one weight by its kept channels, and move the bias by the mean of the rest."""
    axis = channel_axis(checkpoint.structure, entry)
    outer, units, inner = axis_layout(axis, anchor.sizes)
    whole = (outer, inner) == (1, 1)
    keep = kept_indices(axis, anchor.sizes, kept) if whole else kept[next(iter(axis_groups(axis)))]
    if len(keep) == units:
        return
    weight = weights[entry.weight]
    drop = np.setdiff1d(np.arange(units), keep)
    matrix = weight_matrix(entry.node, weight)[0]
    matrix = matrix.reshape(matrix.shape[0], outer, units, -1)
    integrated = matrix.index_select(2, torch.from_numpy(keep).to(weight.device))
    removed = matrix.index_select(2, torch.from_numpy(drop).to(weight.device)).permute(3, 0, 1, 2)
    moments = read_moments(anchor.inputs[entry.weight], keep, drop, entry.bias is not None, weight.device)
    rows = removed.reshape(-1, len(drop))
    update = moments.transferred(rows).reshape(*removed.shape[:3], len(keep))
    integrated += update.permute(1, 2, 3, 0)
    if entry.bias is not None:
        shift = removed.sum((0, 2)) @ moments.mean_dropped - update.sum((0, 2)) @ moments.mean_kept
        weights[entry.bias] = weights[entry.bias] + shift
    shape = list(weight.shape)
    shape[contracted_position(entry)] = outer * len(keep) * inner
    flat = integrated.reshape(1, matrix.shape[0], -1)
    weights[entry.weight] = weight_from_matrix(entry.node, flat, torch.Size(shape))


@dataclass(frozen=True)
class KeptDroppedMoments:
    """Second moments of the inputs of a node, scaled to a unit diagonal, in kept and dropped channels.

    Attributes:
        gram: of the kept channels, shape `(kept, kept)`; only its lower triangle holds values.
        cross: shape `(kept, dropped)`.
        scale_kept, scale_dropped: what the moments were divided by, one per channel.
        mean_kept, mean_dropped: means of the channels.
    """

    gram: torch.Tensor
    cross: torch.Tensor
    scale_kept: torch.Tensor
    scale_dropped: torch.Tensor
    mean_kept: torch.Tensor
    mean_dropped: torch.Tensor

    def transferred(self, rows: torch.Tensor) -> torch.Tensor:
        """`rows @ X`, shape `(rows, kept)`: weights of dropped channels moved to the kept ones.

        The system is solved for the rows or for the dropped channels, whichever are fewer.
        """
        rows = rows * self.scale_dropped
        factor = self._factor()
        update: torch.Tensor
        if rows.shape[0] < self.cross.shape[1]:
            update = torch.cholesky_solve(self.cross @ rows.T, factor).T
        else:
            update = rows @ torch.cholesky_solve(self.cross, factor).T
        return update.div_(self.scale_kept)

    def _factor(self) -> torch.Tensor:
        ridge = RIDGE
        gram = self.gram.clone()
        factor: torch.Tensor = gram
        for _ in range(6):
            gram.diagonal().add_(ridge)
            factor, info = torch.linalg.cholesky_ex(gram)
            if not int(info):
                break
            ridge *= 10
        return factor


def read_moments(
    stored: InputStatistics, keep: IntArray, drop: IntArray, with_bias: bool, device: torch.device
) -> KeptDroppedMoments:
    """Read the moments of a node; without a bias, which has to carry the mean, they are those about zero."""
    scale, mean = stored.scale, stored.mean
    triangle = torch.from_numpy(_unpacked(stored.correlation, len(scale))).to(device)
    k, r = torch.from_numpy(keep).to(device), torch.from_numpy(drop).to(device)
    rows = triangle.index_select(0, k)
    gram = rows.index_select(1, k)
    cross = rows.index_select(1, r) + triangle.index_select(0, r).index_select(1, k).T
    scale_kept, scale_dropped = to_tensor(scale[keep], device), to_tensor(scale[drop], device)
    mean_kept, mean_dropped = to_tensor(mean[keep], device), to_tensor(mean[drop], device)
    if not with_bias:
        about_zero_kept = (scale_kept.square() + mean_kept.square()).sqrt().clamp_min(LEAST_SCALE)
        about_zero_dropped = (scale_dropped.square() + mean_dropped.square()).sqrt().clamp_min(LEAST_SCALE)
        a, b = scale_kept / about_zero_kept, mean_kept / about_zero_kept
        c, d = scale_dropped / about_zero_dropped, mean_dropped / about_zero_dropped
        gram = gram * a[:, None] * a + torch.outer(b, b)
        cross = cross * a[:, None] * c + torch.outer(b, d)
        scale_kept, scale_dropped = about_zero_kept, about_zero_dropped
    return KeptDroppedMoments(gram, cross, scale_kept, scale_dropped, mean_kept, mean_dropped)


def _unpacked(lower: Array, size: int) -> NDArray[np.float32]:
    """A lower triangle, zeros above, from its rows one after the other."""
    matrix = np.zeros((size, size), dtype=np.float32)
    start = 0
    for row in range(size):
        matrix[row, : row + 1] = lower[start : start + row + 1]
        start += row + 1
    return matrix
