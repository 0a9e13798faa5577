"""What every operator function shares: its signature, and how it reads inputs and attributes.

An operator takes `(node, inputs, opset)`: the node, one tensor per input (None where an optional one is absent), the
version of the default operator set. It returns one tensor per output; None, or fewer, for optional outputs it does
not make. It changes no input, is differentiable by autograd for floats, and runs on any device.

On the "meta" device only shapes are computed. What is known, such as the output of Shape and everything derived from
it, stays a real CPU tensor; what depends on data is meta. An operator with inputs of both kinds moves them together
with `together`; one that needs numbers (the target of a Reshape) reads them with `integers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from inn_core.errors import UnsupportedOperatorError
from inn_core.graph.node import Node

Inputs = Sequence[Tensor | None]
Outputs = tuple[Tensor | None, ...]
Operator = Callable[[Node, Inputs, int], Outputs]


def refusal(node: Node, reason: str) -> UnsupportedOperatorError:
    """The error to raise when an operator cannot be computed exactly."""
    return UnsupportedOperatorError(node.name, node.operator, reason)


def optional(inputs: Inputs, position: int) -> Tensor | None:
    """The input at `position`, None when it is absent."""
    return inputs[position] if position < len(inputs) else None


def required(node: Node, inputs: Inputs, position: int) -> Tensor:
    """The input at `position`; raises UnsupportedOperatorError when it is absent."""
    value = inputs[position] if position < len(inputs) else None
    if value is None:
        raise refusal(node, f"its input {position} is missing")
    return value


def together(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors on one device: meta when one is there, else the first that is not the CPU."""
    device = tensors[0].device
    if all(tensor.device == device for tensor in tensors):
        return tensors
    for tensor in tensors:
        if tensor.device.type == "meta":
            device = tensor.device
            break
        if device.type == "cpu":
            device = tensor.device
    return tuple(tensor.to(device) for tensor in tensors)


def integers(node: Node, tensor: Tensor) -> list[int]:
    """The numbers in a tensor of integers, row by row.

    Raises:
        UnsupportedOperatorError: on the meta device, where the numbers are not known.
    """
    if tensor.device.type == "meta":
        raise refusal(node, "the shape of its output depends on the values of the data")
    values: list[int] = tensor.reshape(-1).tolist()
    return values


def number(node: Node, tensor: Tensor) -> int | float:
    """The only number in a tensor; UnsupportedOperatorError when there are more, or on the meta device."""
    if tensor.device.type == "meta":
        raise refusal(node, "the shape of its output depends on the values of the data")
    if tensor.numel() != 1:
        raise refusal(node, f"an input of shape {tuple(tensor.shape)} should be one number")
    return tensor.item()


def axis_of(node: Node, axis: int, rank: int) -> int:
    """`axis` counted from the front, in `0..rank-1`; UnsupportedOperatorError when it is outside."""
    if not -rank <= axis < rank:
        raise refusal(node, f"axis {axis} is outside a tensor of {rank} axes")
    return axis % rank if rank else 0


def axes_of(node: Node, inputs: Inputs, position: int, rank: int) -> list[int] | None:
    """The `axes` of a node, from its input at `position` or, in older operator sets, its attribute.

    Returns:
        Axes in `0..rank-1` in the order given; None when the node has none.
    """
    tensor = optional(inputs, position)
    axes = node.attributes.get("axes") if tensor is None else integers(node, tensor)
    if axes is None:
        return None
    return [axis_of(node, axis, rank) for axis in axes]


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype to accumulate in: float32 for half precision, else the tensor's own."""
    return torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
