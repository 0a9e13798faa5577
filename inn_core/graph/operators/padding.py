"""Pad: constant, reflected, repeated edge or wrapped around, along any axes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import (
    Inputs,
    Operator,
    Outputs,
    axes_of,
    integers,
    optional,
    refusal,
    required,
    together,
)


def pad(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Pad; a negative amount removes elements, in mode constant only."""
    value = required(node, inputs, 0)
    if opset < 11:
        pads, fill = list(node.attributes["pads"]), None
        axes = None
    else:
        pads, fill = integers(node, required(node, inputs, 1)), optional(inputs, 2)
        axes = axes_of(node, inputs, 3, value.dim())
    axes = list(range(value.dim())) if axes is None else axes
    if len(pads) != 2 * len(axes):
        raise refusal(node, f"{len(pads)} amounts of padding do not fit {len(axes)} axes")
    amounts = {axis: (pads[place], pads[place + len(axes)]) for place, axis in enumerate(axes)}
    mode = node.attributes.get("mode", "constant")
    if mode == "constant":
        return (_constant(value, amounts, fill, node.attributes.get("value", 0.0)),)
    for axis, (begin, end) in amounts.items():
        if begin or end:
            value = value.index_select(axis, _sources(node, mode, value.shape[axis], begin, end).to(value.device))
    return (value,)


def _constant(value: Tensor, amounts: dict[int, tuple[int, int]], fill: Tensor | None, default: float) -> Tensor:
    pads = [amount for axis in reversed(range(value.dim())) for amount in amounts.get(axis, (0, 0))]
    if fill is None:
        return functional.pad(value, pads, value=default)
    if fill.device.type == "cpu" and not fill.requires_grad:
        return functional.pad(value, pads, value=fill.item())
    value, fill = together(value, fill)
    inside = functional.pad(torch.ones_like(value, dtype=torch.bool), pads)
    return torch.where(inside, functional.pad(value, pads), fill.reshape(()))


def _sources(node: Node, mode: str, size: int, begin: int, end: int) -> Tensor:
    """Position in the data of every element of the padded axis."""
    if begin < 0 or end < 0:
        raise refusal(node, f"negative padding is not defined for mode='{mode}'")
    if size == 0:
        raise refusal(node, f"an empty axis cannot be padded with mode='{mode}'")
    positions = torch.arange(-begin, size + end)
    if mode == "edge":
        return positions.clamp(0, size - 1)
    if mode == "wrap":
        return positions % size
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        folded = positions % period
        return torch.minimum(folded, period - folded) if size > 1 else torch.zeros_like(positions)
    raise refusal(node, f"mode='{mode}' is unknown")


OPERATORS: dict[str, Operator] = {"Pad": pad}
