"""`instant`: a size in milliseconds, without data, from refined networks stored at knots of the size path.

A knot is a refined network of one plan on the path, with the covariance of the activations at its own linear nodes. A
plan between two knots is reached from the smallest knot that contains it: kept channels are sampled and every consumer is
multiplied by the closed-form quadrature D* = S_hk (S_kk + rI)^-1 of that knot (docs/method.md). The reduction left is
mild, so the error of doing it node by node, without seeing the data again, stays small; at a knot it is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from inn_core.graph.axis import IndexArray, axis_groups, kept_indices
from inn_core.linear import LinearNode, linear_nodes, weight_from_matrix, weight_matrix
from inn_core.network import Array, IntegralNetwork
from inn_core.statistics import PointStatistics, axis_layout, channel_axis

RIDGE = 1e-2  # relative to the mean variance; covariances are stored in half precision, which it covers
STORED = np.float16


@dataclass(frozen=True)
class Knot:
    """A network at one plan, as the checkpoint keeps it.

    Attributes:
        sizes: of every group.
        weights: sized weights by name.
        covariances, means: by weight name, for the linear nodes whose contracted axis is resizable.
    """

    sizes: Mapping[str, int]
    weights: Mapping[str, Array]
    covariances: Mapping[str, Array]
    means: Mapping[str, Array]


def knot_arrays(
    index: int, sizes: Array, weights: Mapping[str, Array] | None, points: list[PointStatistics]
) -> dict[str, Array]:
    """A knot as arrays of the checkpoint.

    Args:
        sizes: one per group, in the order of the structure.
        weights: sized weights, or None for the full network, whose weights the checkpoint has already.
        points: statistics of the knot's own linear nodes.
    """
    prefix = f"instant/{index}/"
    arrays: dict[str, Array] = {f"{prefix}sizes": np.asarray(sizes, dtype=np.int64)}
    for name, weight in (weights or {}).items():
        arrays[f"{prefix}weights/{name}"] = _stored(weight)
    for point in points:
        covariance = point.covariance.cpu().numpy()
        scale = np.sqrt(np.maximum(covariance.diagonal(), 1e-30))
        correlation = covariance / np.outer(scale, scale)
        lower = correlation[np.tril_indices(len(scale))]
        name = point.entry.weight
        arrays[f"{prefix}correlation/{name}"] = np.clip(lower, -1, 1).astype(STORED)
        arrays[f"{prefix}scale/{name}"] = scale.astype(np.float32)
        arrays[f"{prefix}mean/{name}"] = point.mean.cpu().numpy().astype(np.float32)
    return arrays


def _stored(weight: Array) -> Array:
    """Half precision where it loses nothing but its last digits."""
    half = weight.astype(STORED)
    return half if np.isfinite(half).all() else weight


def has_knots(statistics: Mapping[str, Array]) -> bool:
    """Whether a checkpoint keeps what `instant` needs."""
    return "instant/0/sizes" in statistics


def nearest_knot(network: IntegralNetwork, sizes: Mapping[str, int]) -> int:
    """Index of the smallest knot in which every group is at least as large as in the plan; 0 is the full network."""
    wanted = np.array([sizes[group.name] for group in network.structure.groups])
    found = 0
    while f"instant/{found + 1}/sizes" in network.statistics:
        if (network.statistics[f"instant/{found + 1}/sizes"] < wanted).any():
            break
        found += 1
    return found


@torch.inference_mode()
def instant_weights(
    network: IntegralNetwork, sizes: Mapping[str, int], *, device: torch.device
) -> dict[str, Array]:
    """Weights of a plan from the nearest knot.

    Args:
        sizes: of every group; none above its full size.

    Returns:
        Weights by name, in the dtypes of the checkpoint.

    Source: D* is ridge regression of the removed channels on the kept ones; a selection h' = S h makes it exact to
    restrict the knot's own covariance.
    """
    structure, index = network.structure, nearest_knot(network, sizes)
    prefix = f"instant/{index}/"
    knot_sizes = {
        group.name: int(size)
        for group, size in zip(structure.groups, network.statistics[f"{prefix}sizes"], strict=True)
    }
    kept = {name: _relative(order, knot_sizes[name], sizes[name]) for name, order in network.orders.items()}
    compute = torch.float32
    result: dict[str, torch.Tensor] = {}
    linear = _quadrature_nodes(network)
    for name, axes in structure.weights.items():
        source = network.weights[name] if index == 0 else network.statistics[f"{prefix}weights/{name}"]
        result[name] = torch.from_numpy(np.array(source)).to(device, compute)
    shapes = {name: tensor.shape for name, tensor in result.items()}
    for name, axes in structure.weights.items():
        entry = linear.get(name)
        skip = None
        if entry is not None and f"{prefix}correlation/{name}" in network.statistics:
            skip = _apply_quadrature_(network, entry, result, shapes[name], prefix, knot_sizes, kept, device)
        for position, axis in enumerate(axes):
            if position == skip or not axis_groups(axis):
                continue
            chosen = kept_indices(axis, knot_sizes, kept)
            if len(chosen) != result[name].shape[position]:
                result[name] = result[name].index_select(position, torch.from_numpy(chosen).to(device))
    return {
        name: tensor.contiguous().cpu().numpy().astype(network.weights[name].dtype, copy=False)
        for name, tensor in result.items()
    }


def _relative(order: IndexArray, knot_size: int, size: int) -> IndexArray:
    """Positions of the plan's channels among the knot's, which are kept sorted."""
    return np.searchsorted(np.sort(order[:knot_size]), np.sort(order[:size]))


def _quadrature_nodes(network: IntegralNetwork) -> dict[str, LinearNode]:
    """The dense linear node of each weight that only one node reads."""
    from inn_core.graph.node import read_nodes

    nodes = read_nodes(network.template.model.graph)
    names = {name: torch.empty(0) for name in network.structure.weights}
    ranks = {name: torch.empty([0] * len(axes)) for name, axes in network.structure.weights.items()}
    entries = linear_nodes(nodes, {**names, **ranks})
    reads: dict[str, int] = {}
    for node in nodes:
        for name in node.inputs:
            reads[name] = reads.get(name, 0) + 1
    return {e.weight: e for e in entries if reads[e.weight] == 1 and e.node.attributes.get("group", 1) == 1}


def _apply_quadrature_(
    network: IntegralNetwork,
    entry: LinearNode,
    result: dict[str, torch.Tensor],
    shape: torch.Size,
    prefix: str,
    knot_sizes: Mapping[str, int],
    kept: Mapping[str, IndexArray],
    device: torch.device,
) -> int | None:
    """Multiply the contracted axis of a weight by D*, and move the bias by what the removed channels carried.

    Returns the position of the contracted axis, which is then sampled already, or None when nothing was removed.
    """
    node, name = entry.node, entry.weight
    axis = channel_axis(network.structure, entry)
    outer, units, inner = axis_layout(axis, knot_sizes)
    if (outer, inner) == (1, 1):
        keep = kept_indices(axis, knot_sizes, kept)
    else:
        keep = kept[next(iter(axis_groups(axis)))]
    if len(keep) == units:
        return None
    rest = np.setdiff1d(np.arange(units), keep)
    k, r = torch.from_numpy(keep).to(device), torch.from_numpy(rest).to(device)
    correlation = _unpacked(network.statistics[f"{prefix}correlation/{name}"], units, device)
    scale = torch.from_numpy(np.array(network.statistics[f"{prefix}scale/{name}"])).to(device)
    mean = torch.from_numpy(np.array(network.statistics[f"{prefix}mean/{name}"])).to(device)
    second = correlation * scale[:, None] * scale[None, :]
    if entry.bias is None:
        second = second + mean[:, None] * mean[None, :]
    ridge = RIDGE * second.diagonal().mean().clamp_min(1e-30)
    gram = second[k][:, k]
    gram.diagonal().add_(ridge)
    x = torch.linalg.solve(gram, second[k][:, r]).T if len(rest) else second[r][:, k]
    matrix = weight_matrix(node, result[name])[0].reshape(-1, outer, units, inner * (shape[2:].numel()))
    removed = matrix[:, :, r]
    matrix_kept = matrix[:, :, k] + torch.einsum("oars,rk->oaks", removed, x)
    if entry.bias is not None:
        moved = mean[r] - x @ mean[k]
        result[entry.bias] = result[entry.bias] + torch.einsum("oars,r->o", removed, moved)
    position = _contracted_position(entry)
    new_shape = list(shape)
    new_shape[position] = outer * len(keep) * inner
    flat = matrix_kept.reshape(1, matrix.shape[0], -1)
    result[name] = weight_from_matrix(node, flat, torch.Size(new_shape))
    return position


def _contracted_position(entry: LinearNode) -> int:
    if entry.node.operator == "Conv":
        return 1
    return 1 if entry.node.operator == "Gemm" and entry.node.attributes.get("transB", 0) else 0


def _unpacked(lower: Array, size: int, device: torch.device) -> torch.Tensor:
    matrix = torch.zeros(size, size, dtype=torch.float32)
    rows, columns = np.tril_indices(size)
    matrix[torch.from_numpy(rows), torch.from_numpy(columns)] = torch.from_numpy(np.array(lower)).float()
    return (matrix + matrix.tril(-1).T).to(device)
