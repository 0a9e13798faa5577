"""Linear nodes as matrix products: rows of inputs, a weight matrix, rows of outputs.

Every weight-bearing operator that contracts is `T = Z W^T + b` for the right reading of its input: patches for a
convolution, patches of the zero-interleaved input for a transposed one, plain rows for Gemm and MatMul. Least squares,
Grams and orders need only that. `blocks` are the independent solves of a node: 1 for a dense node, one a group for a
grouped convolution, one a channel for a depthwise one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the name every PyTorch reader knows

from inn_core.graph.node import Node

LINEAR_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class LinearNode:
    """A node that multiplies an activation by a weight.

    Attributes:
        index: position in the program.
        data: name of the activation it reads.
        weight: name of the weight.
        bias: name of the bias, or None when the node has none.
    """

    index: int
    node: Node
    data: str
    weight: str
    bias: str | None

    @property
    def output(self) -> str:
        """Name of the value it writes."""
        return self.node.outputs[0]


def linear_nodes(nodes: Sequence[Node], weights: Mapping[str, torch.Tensor]) -> list[LinearNode]:
    """The linear nodes of a program: one activation, one weight of the checkpoint, read as this module can."""
    found = []
    for index, node in enumerate(nodes):
        if node.operator not in LINEAR_OPERATORS or node.inputs[1] not in weights or node.inputs[0] in weights:
            continue
        if node.operator == "MatMul" and weights[node.inputs[1]].ndim != 2:
            continue
        if node.operator == "Gemm" and (
            node.attributes.get("transA", 0)
            or node.attributes.get("alpha", 1.0) != 1.0
            or node.attributes.get("beta", 1.0) != 1.0
        ):
            continue
        if node.operator in ("Conv", "ConvTranspose") and node.attributes.get("auto_pad", "NOTSET") != "NOTSET":
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] in weights else None
        if len(node.inputs) > 2 and node.inputs[2] and bias is None:
            continue
        if bias is not None and weights[bias].ndim != 1:
            continue
        found.append(LinearNode(index=index, node=node, data=node.inputs[0], weight=node.inputs[1], bias=bias))
    return found


def contracted_position(entry: LinearNode) -> int:
    """Which axis of the weight is contracted with the activation."""
    if entry.node.operator == "Conv":
        return 1
    return 1 if entry.node.operator == "Gemm" and entry.node.attributes.get("transB", 0) else 0


def integrated_axes(nodes: Sequence[Node], weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Position of the axis that each weight is contracted along, by name; depthwise weights have none."""
    return {
        entry.weight: contracted_position(entry)
        for entry in linear_nodes(nodes, weights)
        if int(entry.node.attributes.get("group", 1)) == 1
    }


def weight_matrix(node: Node, weight: torch.Tensor) -> torch.Tensor:
    """The weight as `(blocks, out per block, in per block x taps)`."""
    groups = int(node.attributes.get("group", 1))
    if node.operator == "Conv":
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    if node.operator == "ConvTranspose":
        blocks = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).flip(-1)
        return blocks.transpose(1, 2).reshape(groups, weight.shape[1], -1)
    transposed = node.operator == "Gemm" and node.attributes.get("transB", 0)
    return (weight if transposed else weight.T).unsqueeze(0)


def weight_from_matrix(node: Node, matrix: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Inverse of `weight_matrix` for a weight of the given shape."""
    groups = int(node.attributes.get("group", 1))
    if node.operator == "Conv":
        return matrix.reshape(shape)
    if node.operator == "ConvTranspose":
        blocks = matrix.reshape(groups, shape[1], shape[0] // groups, -1).transpose(1, 2).flip(-1)
        return blocks.reshape(shape)
    transposed = node.operator == "Gemm" and node.attributes.get("transB", 0)
    return matrix[0] if transposed else matrix[0].T.contiguous()


def input_rows(
    node: Node,
    weight_shape: torch.Size,
    data: torch.Tensor,
    positions: torch.Tensor | None,
    *,
    taps: tuple[slice, ...] = (),
) -> torch.Tensor:
    """Inputs as `(blocks, rows, in per block x taps)`.

    Args:
        data: the node's input, shape `(samples, channels, *spatial)` or `(..., features)`.
        positions: flat output positions to take from every sample; None takes all. For matrix products, rows.
        taps: of the window along each of its axes; empty takes all.
    """
    if node.operator in ("Gemm", "MatMul"):
        rows = data.reshape(-1, data.shape[-1])
        return (rows if positions is None else rows[positions]).unsqueeze(0)
    patches, n_spatial = _patches(node, weight_shape, data)
    if taps:
        patches = patches[(slice(None),) * (2 + n_spatial) + taps]
    samples, channels = data.shape[:2]
    grid = patches.shape[2 : 2 + n_spatial]
    if positions is None:
        chosen = patches.flatten(2, 1 + n_spatial)
    else:
        at: tuple[slice | torch.Tensor, ...] = (slice(None), slice(None), *_unravel(positions, grid))
        chosen = patches[at]
    chosen = chosen.reshape(samples, channels, chosen.shape[2], -1)
    groups = int(node.attributes.get("group", 1))
    n_taps = chosen.shape[-1]
    blocks = chosen.reshape(samples, groups, channels // groups, -1, n_taps).permute(1, 0, 3, 2, 4)
    return blocks.reshape(groups, -1, channels // groups * n_taps)


def output_rows(node: Node, output: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
    """Outputs as `(blocks, rows, out per block)`, rows in the order of `input_rows`."""
    if node.operator in ("Gemm", "MatMul"):
        rows = output.reshape(-1, output.shape[-1])
        return (rows if positions is None else rows[positions]).unsqueeze(0)
    flat = output.flatten(2)
    chosen = flat if positions is None else flat[:, :, positions]
    groups = int(node.attributes.get("group", 1))
    samples, channels = chosen.shape[:2]
    blocks = chosen.reshape(samples, groups, channels // groups, -1).permute(1, 0, 3, 2)
    return blocks.reshape(groups, -1, channels // groups)


def n_positions(node: Node, output: torch.Tensor) -> int:
    """How many rows one sample has; for matrix products, how many rows there are in all."""
    if node.operator in ("Gemm", "MatMul"):
        return output.numel() // output.shape[-1]
    return output[0, 0].numel()


def _patches(node: Node, weight_shape: torch.Size, data: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A view `(samples, channels, *output grid, *taps)` on the padded input."""
    window = list(weight_shape[2:])
    n = len(window)
    strides = [int(s) for s in node.attributes.get("strides", [1] * n)]
    dilations = [int(d) for d in node.attributes.get("dilations", [1] * n)]
    pads = [int(p) for p in node.attributes.get("pads", [0] * (2 * n))]
    if node.operator == "ConvTranspose":
        extra = [int(p) for p in node.attributes.get("output_padding", [0] * n)]
        data = _interleave_zeros(data, strides)
        reach = [(k - 1) * d for k, d in zip(window, dilations, strict=True)]
        pads = [r - p for r, p in zip(reach * 2, pads, strict=True)]
        pads = pads[:n] + [p + e for p, e in zip(pads[n:], extra, strict=True)]
        strides = [1] * n
    if any(pads):
        ordered = [p for axis in range(n - 1, -1, -1) for p in (pads[axis], pads[n + axis])]
        data = F.pad(data, ordered)
    for axis in range(n):
        data = data.unfold(2 + axis, (window[axis] - 1) * dilations[axis] + 1, strides[axis])
    for axis in range(n):
        if dilations[axis] > 1:
            data = data.movedim(axis - n, -1)[..., :: dilations[axis]].movedim(-1, axis - n)
    return data, n


def _interleave_zeros(data: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    spatial = [(size - 1) * stride + 1 for size, stride in zip(data.shape[2:], strides, strict=True)]
    result = data.new_zeros((*data.shape[:2], *spatial))
    result[(slice(None), slice(None), *(slice(None, None, stride) for stride in strides))] = data
    return result


def _unravel(positions: torch.Tensor, grid: Sequence[int]) -> tuple[torch.Tensor, ...]:
    result = []
    for size in reversed(grid):
        result.append(positions % size)
        positions = positions // size
    return tuple(reversed(result))
