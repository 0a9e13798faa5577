"""Operators that pick or place elements by position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import (
    Inputs,
    Operator,
    Outputs,
    axis_of,
    integers,
    number,
    optional,
    refusal,
    required,
    together,
)

_HUGE = (2**31 - 1, 2**63 - 1)
"""Ends that mean "to the end" in forward slices; backwards they should give nothing, but ONNX Runtime gives all."""

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _from_front(indices: Tensor, size: int) -> Tensor:
    """Indices with negative ones counted from the end."""
    return torch.where(indices < 0, indices + size, indices)


def gather(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Gather: slices along one axis; the axis is replaced by the shape of the indices."""
    value, indices = together(required(node, inputs, 0), required(node, inputs, 1))
    axis = axis_of(node, node.attributes.get("axis", 0), value.dim())
    flat = _from_front(indices.reshape(-1), value.shape[axis])
    picked = value.index_select(axis, flat)
    if indices.dim() == 1:
        return (picked,)
    return (picked.reshape((*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :])),)


def gather_elements(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """GatherElements: one element along the axis per index."""
    value, indices = together(required(node, inputs, 0), required(node, inputs, 1))
    axis = axis_of(node, node.attributes.get("axis", 0), value.dim())
    return (torch.gather(value, axis, _from_front(indices.long(), value.shape[axis])),)


def gather_nd(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """GatherND: the last axis of the indices holds a position in the data, after `batch_dims` shared axes."""
    value, indices = together(required(node, inputs, 0), required(node, inputs, 1))
    batch_dims = node.attributes.get("batch_dims", 0)
    depth = indices.shape[-1]
    batch = value.shape[:batch_dims]
    flat = value.reshape(math.prod(batch), *value.shape[batch_dims:])
    positions = indices.reshape(math.prod(batch), -1, depth)
    columns = [_from_front(positions[..., column], flat.shape[1 + column]) for column in range(depth)]
    rows = torch.arange(flat.shape[0], device=value.device).unsqueeze(1).expand(positions.shape[:2])
    picked = flat[(rows, *columns)]
    return (picked.reshape((*indices.shape[:-1], *value.shape[batch_dims + depth :])),)


def scatter_elements(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """ScatterElements: places, or combines, one update per index along the axis."""
    value, indices, updates = together(*(required(node, inputs, position) for position in range(3)))
    axis = axis_of(node, node.attributes.get("axis", 0), value.dim())
    return (_scatter(node, value, axis, _from_front(indices.long(), value.shape[axis]), updates),)


def scatter_nd(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """ScatterND: the last axis of the indices holds the position of a slice to replace or combine."""
    value, indices, updates = together(*(required(node, inputs, position) for position in range(3)))
    depth = indices.shape[-1]
    slice_size = math.prod(value.shape[depth:])
    row = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=value.device)
    for column in range(depth):
        row = row * value.shape[column] + _from_front(indices[..., column], value.shape[column])
    within = torch.arange(slice_size, device=value.device)
    positions = (row.reshape(-1, 1) * slice_size + within).reshape(-1)
    return (_scatter(node, value.reshape(-1), 0, positions, updates.reshape(-1)).reshape(value.shape),)


def _scatter(node: Node, value: Tensor, axis: int, indices: Tensor, updates: Tensor) -> Tensor:
    reduction = node.attributes.get("reduction", "none")
    if reduction == "none":
        return value.scatter(axis, indices, updates)
    if reduction not in _REDUCTIONS:
        raise refusal(node, f"reduction='{reduction}' is unknown")
    return value.scatter_reduce(axis, indices, updates, _REDUCTIONS[reduction])


def slice_axes(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Slice: start, end and step per axis, clamped to the data; steps may be negative."""
    value = required(node, inputs, 0)
    if opset < 10:
        starts, ends = node.attributes["starts"], node.attributes["ends"]
        axes, steps = node.attributes.get("axes"), None
    else:
        starts, ends = integers(node, required(node, inputs, 1)), integers(node, required(node, inputs, 2))
        given_axes, given_steps = optional(inputs, 3), optional(inputs, 4)
        axes = None if given_axes is None else integers(node, given_axes)
        steps = None if given_steps is None else integers(node, given_steps)
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        counts = f"{len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps"
        raise refusal(node, f"{counts} do not belong together")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            raise refusal(node, f"the step of axis {axis} is 0")
        if step < 0 and end in _HUGE:
            raise refusal(node, f"runtimes disagree on an end of {end} with a negative step")
        place = axis_of(node, axis, value.dim())
        value = _take(value, place, _positions(start, end, step, value.shape[place]))
    return (value,)


def _positions(start: int, end: int, step: int, size: int) -> range:
    """Positions that a slice takes. Unlike in Python, a backward one that starts before the data takes its first."""
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step) if size else range(0)


def _take(value: Tensor, axis: int, positions: range) -> Tensor:
    """Equally spaced positions along an axis: a view for steps forward."""
    if positions.step == 1:
        return value.narrow(axis, min(positions.start, value.shape[axis]), len(positions))
    forward = positions if positions.step > 0 else positions[::-1]
    index = [slice(None)] * axis + [slice(forward.start, forward.stop, forward.step) if len(forward) else slice(0, 0)]
    view = value[tuple(index)]
    return view if positions.step > 0 else view.flip(axis)


def top_k(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """TopK along one axis: values and positions, sorted; of equal values the first comes first."""
    value = required(node, inputs, 0)
    count = node.attributes["k"] if opset < 10 else int(number(node, required(node, inputs, 1)))
    axis = axis_of(node, node.attributes.get("axis", -1), value.dim())
    if not 0 <= count <= value.shape[axis]:
        raise refusal(node, f"k={count} is more than the {value.shape[axis]} elements of axis {axis}")
    # torch.topk does not say which of equal values it takes; a stable sort does
    values, positions = torch.sort(value, dim=axis, descending=bool(node.attributes.get("largest", 1)), stable=True)
    return (values.narrow(axis, 0, count), positions.narrow(axis, 0, count))


def one_hot(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """OneHot: `on` at the index along a new axis, `off` elsewhere and for indices outside."""
    indices, depth, values = required(node, inputs, 0), required(node, inputs, 1), required(node, inputs, 2)
    count = int(number(node, depth))
    axis = axis_of(node, node.attributes.get("axis", -1), indices.dim() + 1)
    indices, values = together(indices, values)
    wanted = _from_front(indices.long(), count).unsqueeze(axis)
    classes = torch.arange(count, device=indices.device).reshape(-1, *([1] * (indices.dim() - axis)))
    return (torch.where(wanted == classes, values[1], values[0]),)


def nonzero(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """NonZero: one column of coordinates per element that is not zero."""
    value = required(node, inputs, 0)
    if value.device.type == "meta":
        raise refusal(node, "the shape of its output depends on the values of the data")
    return (torch.nonzero(value).t(),)


def triangle(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Trilu: the upper or lower triangle of every matrix, from diagonal k on."""
    value, diagonal = required(node, inputs, 0), optional(inputs, 1)
    offset = 0 if diagonal is None else int(number(node, diagonal))
    return (torch.triu(value, offset) if node.attributes.get("upper", 1) else torch.tril(value, offset),)


OPERATORS: dict[str, Operator] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "NonZero": nonzero,
    "OneHot": one_hot,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Slice": slice_axes,
    "TopK": top_k,
    "Trilu": triangle,
}
