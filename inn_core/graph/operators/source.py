"""Values that come from shapes, attributes or other types: Shape, Constant, Range, Cast, Dropout at inference."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import Inputs, Operator, Outputs, integers, number, optional, refusal, required
from inn_core.graph.operators.dtypes import DTYPES, tensor_from_array, type_name

MAX_CONSTANT_ELEMENTS = 2**28  # a gigabyte of float32 from a few bytes of a file


def constant(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Constant: the value of the attribute, on the CPU."""
    attributes = node.attributes
    if "value" in attributes:
        array = attributes["value"]
        if array.dtype.kind in "OSU":
            raise refusal(node, "its value is a string")
        return (tensor_from_array(array),)
    if "value_float" in attributes:
        return (torch.tensor(attributes["value_float"], dtype=torch.float32),)
    if "value_floats" in attributes:
        return (torch.tensor(attributes["value_floats"], dtype=torch.float32),)
    if "value_int" in attributes:
        return (torch.tensor(attributes["value_int"], dtype=torch.int64),)
    if "value_ints" in attributes:
        return (torch.tensor(attributes["value_ints"], dtype=torch.int64),)
    raise refusal(node, f"its value is given by {', '.join(attributes) or 'nothing'}; a tensor or numbers are possible")


def shape(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Shape, or the part of it from `start` to `end`: always known, a tensor on the CPU."""
    sizes = list(required(node, inputs, 0).shape)
    start, end = node.attributes.get("start", 0), node.attributes.get("end", len(sizes))
    return (torch.tensor(sizes[start:end], dtype=torch.int64),)


def size(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Size: the number of elements, always known, a tensor on the CPU."""
    return (torch.tensor(required(node, inputs, 0).numel(), dtype=torch.int64),)


def constant_of_shape(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """ConstantOfShape: one value (by default 0.0) in the wanted shape, on the CPU."""
    sizes = integers(node, required(node, inputs, 0))
    if any(length < 0 for length in sizes) or math.prod(sizes) > MAX_CONSTANT_ELEMENTS:
        raise refusal(node, f"its shape {sizes} is negative or has more than {MAX_CONSTANT_ELEMENTS:,} elements")
    value = node.attributes.get("value")
    if value is None:
        return (torch.zeros(sizes),)
    return (tensor_from_array(value).reshape(()).repeat(sizes) if sizes else tensor_from_array(value).reshape(()),)


def arange(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Range from start, in steps of delta, up to but without limit."""
    start, limit, delta = (required(node, inputs, position) for position in range(3))
    first, last, step = number(node, start), number(node, limit), number(node, delta)
    if step == 0:
        raise refusal(node, "its delta is 0")
    count = max(math.ceil((last - first) / step), 0)
    if not start.is_floating_point():
        return (torch.arange(count, dtype=torch.int64).mul(int(step)).add(int(first)).to(start.dtype),)
    return ((torch.arange(count, dtype=torch.float64) * step + first).to(start.dtype),)


def cast(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Cast to the element type of the attribute `to`."""
    target = node.attributes["to"]
    if target not in DTYPES:
        raise refusal(node, f"a cast to {type_name(target)} is not possible")
    return (_convert(required(node, inputs, 0), DTYPES[target]),)


def cast_like(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """CastLike: cast to the element type of the second input."""
    return (_convert(required(node, inputs, 0), required(node, inputs, 1).dtype),)


def _convert(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype)


def dropout(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Dropout at inference: the data itself, and a mask of all true."""
    value = required(node, inputs, 0)
    training = optional(inputs, 2)
    if training is not None and (training.device.type == "meta" or bool(training.item())):
        ratio = optional(inputs, 1)
        if ratio is None or ratio.device.type == "meta" or ratio.item() != 0:
            raise refusal(node, "it is in training mode")
    return (value, torch.ones_like(value, dtype=torch.bool) if len(node.outputs) > 1 else None)


OPERATORS: dict[str, Operator] = {
    "Cast": cast,
    "CastLike": cast_like,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Dropout": dropout,
    "Range": arange,
    "Shape": shape,
    "Size": size,
}
