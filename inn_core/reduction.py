"""Reduce a stored network to a smaller plan in closed form: sample the kept channels, integrate over the removed ones.

With second moments S of the activations that a weight contracts, k the kept channels and r the removed ones,
W' = W_k + W_r X with X = S_rk (S_kk + rho I)^-1: the quadrature D* of Bayesian quadrature (docs/method.md), exact in
the least-squares sense for the stored network. No data is read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from inn_core.graph.axis import IndexArray, axis_groups, kept_indices
from inn_core.graph.node import read_nodes
from inn_core.linear import LinearNode, linear_nodes, weight_from_matrix, weight_matrix
from inn_core.memo import PerNetwork
from inn_core.network import Array, IntegralNetwork
from inn_core.statistics import axis_layout, channel_axis
from inn_core.stored_knots import Knot

RIDGE = 1e-2  # of a channel's own power; correlations are stored in half precision, which it covers


def dense_nodes(network: IntegralNetwork) -> dict[str, LinearNode]:
    """The dense linear node of each weight that no other node reads, by weight name."""
    return _dense_nodes(network)


def _find_dense_nodes(network: IntegralNetwork) -> dict[str, LinearNode]:
    nodes = read_nodes(network.template.model.graph)
    ranks = {name: torch.empty([0] * len(axes)) for name, axes in network.structure.weights.items()}
    reads: dict[str, int] = {}
    for node in nodes:
        for name in node.inputs:
            reads[name] = reads.get(name, 0) + 1
    entries = linear_nodes(nodes, ranks)
    return {e.weight: e for e in entries if reads[e.weight] == 1 and e.node.attributes.get("group", 1) == 1}


_dense_nodes = PerNetwork(_find_dense_nodes)


def contracted_position(entry: LinearNode) -> int:
    """Which axis of the weight is contracted with the activation."""
    if entry.node.operator == "Conv":
        return 1
    return 1 if entry.node.operator == "Gemm" and entry.node.attributes.get("transB", 0) else 0


def reduced_weights(
    network: IntegralNetwork, knot: Knot, sizes: Mapping[str, int], *, device: torch.device
) -> dict[str, torch.Tensor]:
    """Weights of a plan from a knot that contains it; float32, on the device."""
    kept = {name: relative_positions(order, knot.sizes[name], sizes[name]) for name, order in network.orders.items()}
    dense = dense_nodes(network)
    result: dict[str, torch.Tensor] = {}
    for name, axes in network.structure.weights.items():
        tensor = torch.from_numpy(np.array(knot.weight(network, name))).to(device, torch.float32)
        contracted = contracted_position(dense[name]) if name in dense and knot.covers(network, name) else None
        for position, axis in enumerate(axes):
            if position != contracted and axis_groups(axis):
                chosen = kept_indices(axis, knot.sizes, kept)
                if len(chosen) != tensor.shape[position]:
                    tensor = tensor.index_select(position, torch.from_numpy(chosen).to(device))
        result[name] = tensor
    for name, entry in dense.items():
        if knot.covers(network, name):
            _integrate_(network, knot, entry, result, kept, device)
    return result


def relative_positions(order: IndexArray, larger: int, smaller: int) -> IndexArray:
    """Where the first `smaller` channels of an order stand among its first `larger`, both kept sorted."""
    return np.searchsorted(np.sort(order[:larger]), np.sort(order[:smaller]))


def _integrate_(
    network: IntegralNetwork,
    knot: Knot,
    entry: LinearNode,
    weights: dict[str, torch.Tensor],
    kept: Mapping[str, IndexArray],
    device: torch.device,
) -> None:
    """Replace the contracted axis of one weight by its kept channels, and move the bias by the mean of the rest."""
    axis = channel_axis(network.structure, entry)
    outer, units, inner = axis_layout(axis, knot.sizes)
    whole = (outer, inner) == (1, 1)
    keep = kept_indices(axis, knot.sizes, kept) if whole else kept[next(iter(axis_groups(axis)))]
    if len(keep) == units:
        return
    k = torch.from_numpy(keep).to(device)
    r = torch.from_numpy(np.setdiff1d(np.arange(units), keep)).to(device)
    x, mean = _quadrature(knot.correlation(network, entry.weight), units, k, r, entry.bias is not None, device)
    weight = weights[entry.weight]
    matrix = weight_matrix(entry.node, weight)[0]
    matrix = matrix.reshape(matrix.shape[0], outer, units, -1)
    removed = matrix[:, :, r].transpose(2, 3)
    integrated = matrix[:, :, k] + (removed @ x).transpose(2, 3)
    if entry.bias is not None:
        weights[entry.bias] = weights[entry.bias] + removed.sum((1, 2)) @ (mean[r] - x @ mean[k])
    shape = list(weight.shape)
    shape[contracted_position(entry)] = outer * len(keep) * inner
    flat = integrated.reshape(1, matrix.shape[0], -1)
    weights[entry.weight] = weight_from_matrix(entry.node, flat, torch.Size(shape))


def _quadrature(
    stored: tuple[Array, Array, Array],
    units: int,
    k: torch.Tensor,
    r: torch.Tensor,
    with_bias: bool,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """X of shape `(removed, kept)`, and the means of all channels."""
    lower, scale_array, mean_array = stored
    scale = torch.from_numpy(np.array(scale_array)).to(device)
    mean = torch.from_numpy(np.array(mean_array)).to(device)
    moments = _unpacked(lower, units, device)
    if not with_bias:  # a node without a bias has to carry the mean: moments about zero
        moments = moments * scale[:, None] * scale + mean[:, None] * mean
        scale = moments.diagonal().clamp_min(1e-30).sqrt()
        moments = moments / (scale[:, None] * scale)
    gram = moments[k][:, k]
    right = moments[k][:, r]
    ridge = RIDGE
    for _ in range(6):
        gram.diagonal().add_(ridge)
        factor, info = torch.linalg.cholesky_ex(gram)
        if not int(info):
            break
        ridge *= 10
    x = torch.cholesky_solve(right, factor).T
    return x * scale[r][:, None] / scale[k], mean


def _unpacked(lower: Array, size: int, device: torch.device) -> torch.Tensor:
    matrix = np.zeros((size, size), dtype=np.float32)
    matrix[np.tril_indices(size)] = lower
    matrix += np.tril(matrix, -1).T
    return torch.from_numpy(matrix).to(device)
