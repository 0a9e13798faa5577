"""Operators that change the shape or order of elements but no value."""

from __future__ import annotations

import math

import numpy as np
import torch

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import (
    Inputs,
    Operator,
    Outputs,
    axes_of,
    axis_of,
    integers,
    optional,
    refusal,
    required,
    together,
)


def reshape(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Reshape: -1 is inferred, 0 copies the size at its place unless `allowzero`."""
    value = required(node, inputs, 0)
    target = integers(node, required(node, inputs, 1))
    if 0 in target and not node.attributes.get("allowzero", 0):
        if any(size == 0 and axis >= value.dim() for axis, size in enumerate(target)):
            raise refusal(node, f"its target {target} copies a size that shape {tuple(value.shape)} does not have")
        target = [value.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    if -1 in target and 0 in target:
        # torch calls the size ambiguous when another one is 0; what is left after the others is 0 elements too
        known = math.prod(size for size in target if size > 0)
        if value.numel() == 0 and known:
            rest = math.prod(size for size in value.shape if size)
            target = [rest // known if size == -1 else size for size in target]
    return (value.reshape(target),)


def flatten(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Flatten to a matrix: axes before `axis` become rows, the others columns."""
    value = required(node, inputs, 0)
    axis = node.attributes.get("axis", 1)
    if not -value.dim() <= axis <= value.dim():
        raise refusal(node, f"axis {axis} is outside a tensor of {value.dim()} axes")
    axis = axis + value.dim() if axis < 0 else axis
    return (value.reshape(math.prod(value.shape[:axis]), math.prod(value.shape[axis:])),)


def transpose(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Transpose: a view with the axes in order `perm`, reversed by default."""
    value = required(node, inputs, 0)
    return (value.permute(node.attributes.get("perm", list(reversed(range(value.dim()))))),)


def squeeze(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Squeeze: removes axes of size 1, all of them by default."""
    value = required(node, inputs, 0)
    axes = axes_of(node, inputs, 1, value.dim())
    if axes is None:
        axes = [axis for axis, size in enumerate(value.shape) if size == 1]
    if any(value.shape[axis] != 1 for axis in axes):
        raise refusal(node, f"axes {axes} of shape {tuple(value.shape)} are not all of size 1")
    return (value.reshape([size for axis, size in enumerate(value.shape) if axis not in axes]),)


def unsqueeze(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Unsqueeze: new axes of size 1 at positions of the result."""
    value = required(node, inputs, 0)
    axes = optional(inputs, 1)
    places: list[int] = node.attributes["axes"] if axes is None else integers(node, axes)
    rank = value.dim() + len(places)
    normal = [axis_of(node, axis, rank) for axis in places]
    if len(set(normal)) != len(normal):
        raise refusal(node, f"axes {places} name one place twice")
    for axis in sorted(normal):
        value = value.unsqueeze(axis)
    return (value,)


def expand(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Expand: broadcasts the data and the wanted shape to each other."""
    value = required(node, inputs, 0)
    target = np.broadcast_shapes(tuple(value.shape), tuple(integers(node, required(node, inputs, 1))))
    return (value.expand(target),)


def tile(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Tile: repeats the data along every axis."""
    value = required(node, inputs, 0)
    repeats = integers(node, required(node, inputs, 1))
    if len(repeats) != value.dim():
        raise refusal(node, f"{len(repeats)} repeats do not fit a tensor of {value.dim()} axes")
    return (value.repeat(repeats),)


def concat(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Concat along one axis."""
    values = together(*(required(node, inputs, position) for position in range(len(inputs))))
    return (torch.cat(values, axis_of(node, node.attributes.get("axis", 1), values[0].dim())),)


def split(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Split: views of given sizes, or of equal sizes where a last one may be smaller."""
    value = required(node, inputs, 0)
    axis = axis_of(node, node.attributes.get("axis", 0), value.dim())
    given = optional(inputs, 1)
    sizes: list[int] | None = node.attributes.get("split") if given is None else integers(node, given)
    if sizes is None:
        count = node.attributes.get("num_outputs", len(node.outputs))
        part = -(-value.shape[axis] // count)
        sizes = [part] * (count - 1) + [value.shape[axis] - part * (count - 1)]
        if sizes[-1] < 0 or (opset < 18 and sizes[-1] != part):
            raise refusal(node, f"{value.shape[axis]} elements do not split into {count} parts")
    return tuple(torch.split(value, sizes, axis))


def depth_to_space(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """DepthToSpace: (batch, depth, height, width) to blocks of `blocksize`, mode DCR or CRD."""
    value = required(node, inputs, 0)
    block = node.attributes["blocksize"]
    batch, depth, height, width = value.shape
    inner = depth // (block * block)
    if _mode(node) == "DCR":
        parts = value.reshape(batch, block, block, inner, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = value.reshape(batch, inner, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return (parts.reshape(batch, inner, height * block, width * block),)


def space_to_depth(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """SpaceToDepth: the inverse of DepthToSpace of the same mode."""
    value = required(node, inputs, 0)
    block = node.attributes["blocksize"]
    batch, depth, height, width = value.shape
    parts = value.reshape(batch, depth, height // block, block, width // block, block)
    order = (0, 3, 5, 1, 2, 4) if _mode(node) == "DCR" else (0, 1, 3, 5, 2, 4)
    return (parts.permute(order).reshape(batch, depth * block * block, height // block, width // block),)


def _mode(node: Node) -> str:
    mode: str = node.attributes.get("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise refusal(node, f"mode='{mode}' is neither 'DCR' nor 'CRD'")
    return mode


OPERATORS: dict[str, Operator] = {
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Flatten": flatten,
    "Reshape": reshape,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
