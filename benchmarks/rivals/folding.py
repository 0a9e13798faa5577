"""Model folding: channels that are alike become one channel, without data; statistics can be repaired afterwards.

Written after Wang, Šikić, Thiele, Saukh, *Forget the Data and Fine-Tuning! Just Fold the Network to Compress* (arXiv
2502.10216): k-means over the channels of each group of coupled layers, on the rows of every weight that writes the
channel (BatchNorm folded in); the mean of a cluster takes the place of its rows, and what reads the cluster sums its
columns. Merged channels vary less than what they were made of, so `match_statistics` gives every channel the mean and
deviation that its cluster had (REPAIR, Jordan et al., arXiv 2211.08403), from unlabelled images.

The groups and axes of an imported network say which rows belong together, so every network that imports can be folded.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from benchmarks.rivals.uniform import uniform_widths
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.axis import Axis, axis_groups, axis_size, kept_indices
from inn_core.graph.cost import CostModel
from inn_core.graph.linear_nodes import LinearNode, contracted_position, linear_nodes
from inn_core.graph.program import Program
from inn_core.graph.resized import resize_template
from inn_core.graph.structure import Group

RESTARTS = 4
"""Runs of k-means from different centres; the tightest clusters are kept."""

SMALLEST_DEVIATION = 1e-6
"""A channel that varies less is constant: its scale is left alone."""

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Folded:
    """A folded network.

    Attributes:
        sizes: of every group.
        clusters: of every group the cluster of each channel, shape `(full size,)`.
        weights: by initializer name.
    """

    sizes: Mapping[str, int]
    clusters: Mapping[str, Labels]
    weights: Mapping[str, Tensor]


def uniform_sizes(checkpoint: Checkpoint, target: int) -> dict[str, int]:
    """The same share of every group, as large as `target` parameters allow.

    Raises:
        ValueError: even groups of one channel have more parameters.
    """
    model = CostModel.of(checkpoint.template, checkpoint.structure)
    groups = checkpoint.structure.groups

    def cost(widths: Sequence[int]) -> int:
        return int(model.evaluate("params", np.array([widths], dtype=np.int64))[0])

    widths = uniform_widths([group.size for group in groups], target, cost=cost)
    return {group.name: size for group, size in zip(groups, widths, strict=True)}


def fold(checkpoint: Checkpoint, sizes: Mapping[str, int], *, seed: int = 0) -> Folded:
    """Fold every group to its size, without data.

    Args:
        checkpoint: template, full weights and structure are looked at.
        sizes: number of clusters of every group.
        seed: of k-means.

    Returns:
        Weights for the template resized to `sizes`. At the full size they are the network's own, channels permuted.
    """
    consumed = _contracted(checkpoint)
    clusters = {
        group.name: _cluster(checkpoint, group, sizes[group.name], consumed, seed)
        for group in checkpoint.structure.groups
    }
    sums = {name: _indicator(labels, sizes[name]) for name, labels in clusters.items()}
    means = {name: _mean(matrix) for name, matrix in sums.items()}
    weights = {}
    for name, axes in checkpoint.structure.weights.items():
        tensor = torch.from_numpy(np.array(checkpoint.weights[name], dtype=np.float64))
        for position, axis in enumerate(axes):
            if axis_groups(axis):
                matrix = _axis_matrix(axis, sums if consumed.get(name) == position else means)
                tensor = torch.movedim(torch.tensordot(tensor, matrix, dims=([position], [0])), -1, position)
        weights[name] = tensor.float().contiguous()
    return Folded(dict(sizes), clusters, weights)


@torch.inference_mode()
def match_statistics(checkpoint: Checkpoint, folded: Folded, images: Tensor) -> Folded:
    """Give every channel of every folded layer the mean and deviation that its cluster has in the full network.

    Args:
        checkpoint: the full network.
        folded: of it.
        images: unlabelled samples of the one graph input, samples first; all run at once.

    Returns:
        The same clusters with rows and biases rescaled, layer after layer, so that later layers see repaired inputs.
        Layers whose outputs keep their size (the logits) are left alone, as those have no BatchNorm to take again.
    """
    full = Program(checkpoint.template.model)
    sized = Program(resize_template(checkpoint.template, checkpoint.structure, folded.sizes))
    full_weights = {name: torch.from_numpy(np.array(array)) for name, array in checkpoint.weights.items()}
    weights = dict(folded.weights)
    means = {name: _mean(_indicator(labels, folded.sizes[name])) for name, labels in folded.clusters.items()}
    nodes = {entry.index: entry for entry in linear_nodes(full.nodes, full_weights)}
    inputs = {full.inputs[0]: images}
    reference, environment = full.begin(inputs), sized.begin(inputs)
    for index in range(len(full.nodes)):
        full.step(index, reference, full_weights)
        sized.step(index, environment, weights)
        if index in nodes:
            _match_(checkpoint, nodes[index], reference, environment, weights, means)
        full.release(index, reference)
        sized.release(index, environment)
    return Folded(folded.sizes, folded.clusters, weights)


@torch.inference_mode()
def folded_outputs(checkpoint: Checkpoint, folded: Folded, images: Tensor, *, batch_images: int = 500) -> Tensor:
    """First output of the folded network, shape `(n, …)`."""
    program = Program(resize_template(checkpoint.template, checkpoint.structure, folded.sizes))
    batches = images.split(batch_images)
    results = [program.run(folded.weights, {program.inputs[0]: batch}) for batch in batches]
    return torch.cat([result[program.outputs[0]] for result in results])


def _contracted(checkpoint: Checkpoint) -> dict[str, int]:
    """Axis of every linear node's weight that is summed over, by weight name."""
    weights = {name: torch.from_numpy(np.array(array)) for name, array in checkpoint.weights.items()}
    entries = linear_nodes(Program(checkpoint.template.model).nodes, weights)
    return {entry.weight: contracted_position(entry) for entry in entries}


def _cluster(checkpoint: Checkpoint, group: Group, size: int, consumed: Mapping[str, int], seed: int) -> Labels:
    if size == group.size:
        return np.arange(size, dtype=np.int64)
    rows = _producer_rows(checkpoint, group, consumed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal rows give fewer clusters than asked; both work
        found = KMeans(n_clusters=size, n_init=RESTARTS, random_state=seed).fit(rows).labels_
    return np.asarray(found, dtype=np.int64)


def _producer_rows(checkpoint: Checkpoint, group: Group, consumed: Mapping[str, int]) -> NDArray[np.float64]:
    """Everything that writes a channel, one row for each channel."""
    full = checkpoint.structure.full_sizes()
    everything = {name: np.arange(size) for name, size in full.items()}
    parts = []
    for tensor, position in dict.fromkeys(group.places):
        if consumed.get(tensor) == position:
            continue
        axis = checkpoint.structure.weights[tensor][position]
        weight = np.moveaxis(np.asarray(checkpoint.weights[tensor], dtype=np.float64), position, 0)
        for segment, offset in zip(axis, _offsets(axis, full), strict=True):
            if group.name in segment:
                chosen = [{**everything, group.name: np.array([channel])} for channel in range(group.size)]
                indices = [offset + kept_indices((segment,), full, kept) for kept in chosen]
                parts.append(np.stack([weight[index].reshape(-1) for index in indices]))
    return np.concatenate(parts, axis=1)


def _offsets(axis: Axis, full: Mapping[str, int]) -> list[int]:
    return [axis_size(axis[:index], full) for index in range(len(axis))]


def _indicator(labels: Labels, size: int) -> Tensor:
    """One row for each channel, one column for each cluster, shape `(full size, size)`."""
    indicator: Tensor = torch.nn.functional.one_hot(torch.from_numpy(labels), size).double()
    return indicator


def _mean(indicator: Tensor) -> Tensor:
    return indicator / indicator.sum(0).clamp(min=1)


def _axis_matrix(axis: Axis, matrices: Mapping[str, Tensor]) -> Tensor:
    blocks = []
    for segment in axis:
        block = torch.ones(1, 1, dtype=torch.float64)
        for factor in segment:
            inner = matrices[factor] if isinstance(factor, str) else torch.eye(factor, dtype=torch.float64)
            block = torch.kron(block, inner.contiguous())
        blocks.append(block)
    matrix: Tensor = torch.block_diag(*blocks)
    return matrix


def _match_(
    checkpoint: Checkpoint,
    entry: LinearNode,
    reference: Mapping[str, Tensor],
    environment: dict[str, Tensor],
    weights: dict[str, Tensor],
    means: Mapping[str, Tensor],
) -> None:
    """Rescale the rows of one node and what it wrote."""
    position = 1 - contracted_position(entry)
    axis = checkpoint.structure.weights[entry.weight][position]
    if not axis_groups(axis):
        return
    merge = _axis_matrix(axis, means).float()
    wanted_mean, wanted_deviation = (merge.T @ part for part in _moments(reference[entry.output]))
    output = environment[entry.output]
    found_mean, found_deviation = _moments(output)
    scale = torch.where(found_deviation > SMALLEST_DEVIATION, wanted_deviation / found_deviation, 1.0)
    shift = wanted_mean - scale * found_mean if entry.bias is not None else torch.zeros_like(scale)
    weights[entry.weight] = weights[entry.weight] * _along(scale, position, weights[entry.weight].ndim)
    if entry.bias is not None:
        weights[entry.bias] = scale * weights[entry.bias] + shift
    channels = 1 if entry.node.operator in ("Conv", "ConvTranspose") else output.ndim - 1
    environment[entry.output] = output * _along(scale, channels, output.ndim) + _along(shift, channels, output.ndim)


def _moments(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every channel; axis 1 of maps, the last axis of rows."""
    rows = output.transpose(0, 1).flatten(1) if output.ndim > 2 else output.T
    return rows.mean(1), rows.std(1, correction=0)


def _along(values: Tensor, axis: int, ndim: int) -> Tensor:
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)
