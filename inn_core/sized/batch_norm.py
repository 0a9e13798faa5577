"""Normalization of pre-activations: what keeps one set of weights accurate at every size.

A smaller size has other means and deviations of its pre-activations. So each convolution of an integral network is
followed by a normalization: in training with the statistics of the batch *at that size*, afterwards with statistics
stored for the size. Scale and shift are shared by all sizes; at the start they are the mean and deviation of the full
network's own pre-activations, so that the full network computes what it did. A discrete model has no normalization
left, for it is folded into weight and bias.

Source: Ioffe and Szegedy, arXiv 1502.03167; statistics for each size, Yu and Huang, arXiv 1903.05134.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the name every PyTorch reader knows
from torch import Tensor

from inn_core.graph.axis import axis_groups
from inn_core.graph.linear_nodes import linear_nodes
from inn_core.graph.program import Program
from inn_core.graph.structure import Structure

EPSILON = 1e-5
"""Added to variances, as BatchNormalization does by default."""


@dataclass(frozen=True)
class NormalizedNode:
    """A linear node whose pre-activations are normalized.

    Attributes:
        index: position in the program.
        output: name of the value it writes; channels are axis 1.
        weight, bias: names; no other node reads them.
        out_axis: position of the output channels in the weight.
    """

    index: int
    output: str
    weight: str
    bias: str
    out_axis: int


@dataclass(frozen=True)
class Moments:
    """Mean and variance of the pre-activations of one node, without its bias; shape `(channels,)` each."""

    mean: Tensor
    variance: Tensor

    def deviation(self) -> Tensor:
        """Square root of the variance and EPSILON."""
        return (self.variance + EPSILON).sqrt()

    def to(self, like: Tensor) -> Moments:
        """On the device of a tensor and in its precision, float32 at least."""
        dtype = wide(like.dtype)
        return Moments(self.mean.to(like.device, dtype), self.variance.to(like.device, dtype))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of statistics, scales and shifts beside weights of a dtype: its own, float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def normalized_nodes(
    structure: Structure, program: Program, weights: Mapping[str, Tensor]
) -> tuple[NormalizedNode, ...]:
    """Nodes that can be normalized: convolutions and products with a bias of their own and resizable outputs.

    The last nodes, which write what the network returns, are left alone, and so is a node without a bias, since the
    shift could not be folded.
    """
    readers = Counter(name for node in program.nodes for name in node.inputs)
    found = []
    for entry in linear_nodes(program.nodes, weights):
        if entry.bias is None or readers[entry.bias] != 1 or readers[entry.weight] != 1:
            continue
        group = int(entry.node.attributes.get("group", 1))
        if entry.node.operator == "Conv":
            out_axis = 0
        elif entry.node.operator == "ConvTranspose" and group == 1:
            out_axis = 1
        elif entry.node.operator == "Gemm":
            out_axis = 0 if entry.node.attributes.get("transB", 0) else 1
        else:
            continue
        if entry.output in program.outputs or not axis_groups(structure.weights[entry.bias][0]):
            continue
        found.append(NormalizedNode(entry.index, entry.output, entry.weight, entry.bias, out_axis))
    return tuple(found)


def normalize_batch(value: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalize with the statistics of the batch; shape `(batch, channels, ...)`."""
    dtype = wide(value.dtype)
    return F.batch_norm(value, None, None, scale.to(dtype), shift.to(dtype), training=True, eps=EPSILON)


@torch.no_grad()
def measure_moments(
    program: Program,
    nodes: Sequence[NormalizedNode],
    weights: Mapping[str, Tensor],
    scales: Mapping[str, Tensor] | None,
    shifts: Mapping[str, Tensor],
    chunks: Sequence[Mapping[str, Tensor]],
) -> dict[str, Moments]:
    """Moments of all samples together at every normalized node, each behind the normalization of those before it.

    Args:
        weights: of the size; the biases of normalized nodes are zero.
        scales, shifts: of the size, by weight name. Without scales nothing is normalized and the shifts are biases.
        chunks: samples by graph input. All of them walk together, so their live activations must fit memory.

    Returns:
        Moments by weight name, float32.
    """
    by_index = {node.index: node for node in nodes}
    environments = [program.begin(chunk) for chunk in chunks]
    found: dict[str, Moments] = {}
    for index in program.walk(environments, weights):
        node = by_index.get(index)
        if node is not None:
            values = [environment[node.output] for environment in environments]
            moments = found[node.weight] = pooled_moments(values)
            used = moments.to(values[0])
            mean, shift = used.mean, shifts[node.weight].to(used.mean)
            if scales is None:
                mean, scale = torch.zeros_like(mean), used.deviation()
            else:
                scale = scales[node.weight].to(mean)
            for environment in environments:
                value = environment[node.output]
                environment[node.output] = F.batch_norm(
                    value, mean, used.variance, scale, shift, training=False, eps=EPSILON
                )
    return found


def pooled_moments(values: Sequence[Tensor]) -> Moments:
    """Mean and variance along axis 1 of tensors of shape `(batch, channels, ...)` together, float32.

    Sums over a sample are taken in the values' precision, float32 at least, those over samples in float64: as exact as
    float64 throughout after rounding, and several times as fast. Values are taken relative to the mean of the first
    tensor, for squares of large means would hide small deviations.
    """
    dtype = wide(values[0].dtype)
    shift = _by_sample(values[0], dtype).mean((0, 2))[:, None]
    total = torch.zeros_like(shift[:, 0], dtype=torch.float64)
    square, rows = torch.zeros_like(total), 0
    for value in values:
        centred = _by_sample(value, dtype) - shift  # shape: (batch, channels, positions)
        total += centred.sum(2).sum(0, dtype=torch.float64)
        square += centred.square_().sum(2).sum(0, dtype=torch.float64)
        rows += centred.shape[0] * centred.shape[2]
    mean = total / rows
    variance = (square / rows - mean.square()).clamp_min(0.0)
    return Moments((mean + shift[:, 0].double()).float(), variance.float())


def _by_sample(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of shape `(batch, channels, ...)` as `(batch, channels, positions)`, a view where that is possible."""
    return (value.flatten(2) if value.ndim > 2 else value[:, :, None]).to(dtype)


def fold(node: NormalizedNode, weight: Tensor, moments: Moments, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias that compute what the weight and the normalization behind it do, in the weight's precision."""
    moments = moments.to(weight)
    factor = scale / moments.deviation()
    along = [1] * weight.ndim
    along[node.out_axis] = -1
    return (weight * factor.view(along)).to(weight.dtype), (shift - moments.mean * factor).to(weight.dtype)
