"""Element-wise arithmetic, comparison and logic, with numpy broadcasting."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import Inputs, Operator, Outputs, optional, refusal, required, together


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    def run(node: Node, inputs: Inputs, opset: int) -> Outputs:
        return (function(required(node, inputs, 0)),)

    return run


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def run(node: Node, inputs: Inputs, opset: int) -> Outputs:
        first, second = required(node, inputs, 0), required(node, inputs, 1)
        if first.device != second.device:
            first, second = together(first, second)
        return (function(first, second),)

    return run


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def run(node: Node, inputs: Inputs, opset: int) -> Outputs:
        tensors = together(*(required(node, inputs, position) for position in range(len(inputs))))
        return (functools.reduce(function, tensors),)

    return run


def _divide(first: Tensor, second: Tensor) -> Tensor:
    if first.is_floating_point():
        return first / second
    return torch.div(first, second, rounding_mode="trunc")


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(base, exponent).to(base.dtype)


def modulo(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Mod: sign of the divisor (integers), or with `fmod=1` sign of the dividend."""
    first, second = together(required(node, inputs, 0), required(node, inputs, 1))
    if node.attributes.get("fmod", 0):
        return (torch.fmod(first, second),)
    if first.is_floating_point() and opset < 28:
        raise refusal(node, "fmod=0 is not defined for floating point before operator set 28")
    return (torch.remainder(first, second),)


def mean(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Mean of all inputs."""
    tensors = together(*(required(node, inputs, position) for position in range(len(inputs))))
    return (functools.reduce(torch.add, tensors) / len(tensors),)


def where(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Where: the second input where the first holds, else the third."""
    condition, first, second = together(*(required(node, inputs, position) for position in range(3)))
    return (torch.where(condition, first, second),)


def clip(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Clip to [min, max], each optional; from inputs, or from attributes before operator set 11."""
    value = required(node, inputs, 0)
    if opset < 11:
        lower, upper = node.attributes.get("min"), node.attributes.get("max")
        return (value if lower is None and upper is None else torch.clamp(value, lower, upper),)
    low, high = optional(inputs, 1), optional(inputs, 2)
    if low is None and high is None:
        return (value,)
    if all(bound is None or (bound.device.type == "cpu" and not bound.requires_grad) for bound in (low, high)):
        numbers = [None if bound is None else bound.item() for bound in (low, high)]
        return (torch.clamp(value, numbers[0], numbers[1]),)
    if low is not None:
        value = torch.maximum(*together(value, low))
    if high is not None:
        value = torch.minimum(*together(value, high))
    return (value,)


def is_infinite(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """IsInf, of the wanted signs only."""
    value = required(node, inputs, 0)
    positive = bool(node.attributes.get("detect_positive", 1))
    negative = bool(node.attributes.get("detect_negative", 1))
    if positive and negative:
        return (torch.isinf(value),)
    if positive:
        return (torch.isposinf(value),)
    return (torch.isneginf(value) if negative else torch.zeros_like(value, dtype=torch.bool),)


def identity(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Identity: the input itself, not a copy."""
    return (required(node, inputs, 0),)


OPERATORS: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Acos": _unary(torch.acos),
    "Acosh": _unary(torch.acosh),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Asin": _unary(torch.asin),
    "Asinh": _unary(torch.asinh),
    "Atan": _unary(torch.atan),
    "Atanh": _unary(torch.atanh),
    "Ceil": _unary(torch.ceil),
    "Clip": clip,
    "Cos": _unary(torch.cos),
    "Cosh": _unary(torch.cosh),
    "Div": _binary(_divide),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Identity": identity,
    "IsInf": is_infinite,
    "IsNaN": _unary(torch.isnan),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "Max": _variadic(torch.maximum),
    "Mean": mean,
    "Min": _variadic(torch.minimum),
    "Mod": modulo,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "Pow": _binary(_power),
    "Reciprocal": _unary(torch.reciprocal),
    "Round": _unary(torch.round),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Sinh": _unary(torch.sinh),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Tan": _unary(torch.tan),
    "Where": where,
    "Xor": _binary(torch.logical_xor),
}
