"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import Inputs, Operator, Outputs, axis_of, refusal, required, together


def _activation(function: Callable[..., Tensor], **defaults: float) -> Operator:
    """An operator that passes the attributes named in `defaults`, in that order, after the tensor."""

    def run(node: Node, inputs: Inputs, opset: int) -> Outputs:
        parameters = [node.attributes.get(name, default) for name, default in defaults.items()]
        return (function(required(node, inputs, 0), *parameters),)

    return run


def _hard_sigmoid(value: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(value * alpha + beta, 0.0, 1.0)


def _selu(value: Tensor, alpha: float, gamma: float) -> Tensor:
    return gamma * functional.elu(value, alpha)


def _softplus(value: Tensor) -> Tensor:
    # Past the threshold torch returns the value itself; exp(-40) is below the last digit of float64.
    return functional.softplus(value, threshold=40.0 if value.dtype == torch.float64 else 20.0)


def _shrink(value: Tensor, bias: float, limit: float) -> Tensor:
    zero = torch.zeros_like(value)
    return torch.where(value < -limit, value + bias, torch.where(value > limit, value - bias, zero))


def _swish(value: Tensor, alpha: float) -> Tensor:
    return functional.silu(value) if alpha == 1.0 else value * torch.sigmoid(alpha * value)


def gelu(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Gelu, with erf or with its tanh approximation as the node says."""
    approximate = node.attributes.get("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise refusal(node, f"approximate='{approximate}' is neither 'none' nor 'tanh'")
    return (functional.gelu(required(node, inputs, 0), approximate=approximate),)


def prelu(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """PRelu: the slope broadcasts to the value."""
    value, slope = together(required(node, inputs, 0), required(node, inputs, 1))
    return (torch.where(value < 0, value * slope, value),)


def _along_axis(function: Callable[[Tensor, int], Tensor]) -> Operator:
    """Softmax and its like: over one axis, or before operator set 13 over all axes from `axis` on."""

    def run(node: Node, inputs: Inputs, opset: int) -> Outputs:
        value = required(node, inputs, 0)
        axis = axis_of(node, node.attributes.get("axis", -1 if opset >= 13 else 1), value.dim())
        if opset >= 13 or axis == value.dim() - 1:
            return (function(value, axis),)
        return (function(value.flatten(axis), -1).reshape(value.shape),)

    return run


def _hardmax(value: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(value).scatter(axis, value.argmax(axis, keepdim=True), 1)


OPERATORS: dict[str, Operator] = {
    "Celu": _activation(functional.celu, alpha=1.0),
    "Elu": _activation(functional.elu, alpha=1.0),
    "Gelu": gelu,
    "HardSigmoid": _activation(_hard_sigmoid, alpha=0.2, beta=0.5),
    "HardSwish": _activation(functional.hardswish),
    "Hardmax": _along_axis(_hardmax),
    "LeakyRelu": _activation(functional.leaky_relu, alpha=0.01),
    "LogSoftmax": _along_axis(torch.log_softmax),
    "Mish": _activation(functional.mish),
    "PRelu": prelu,
    "Relu": _activation(torch.relu),
    "Selu": _activation(_selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Shrink": _activation(_shrink, bias=0.0, lambd=0.5),
    "Sigmoid": _activation(torch.sigmoid),
    "Softmax": _along_axis(torch.softmax),
    "Softplus": _activation(_softplus),
    "Softsign": _activation(functional.softsign),
    "Swish": _activation(_swish, alpha=1.0),
    "Tanh": _activation(torch.tanh),
    "ThresholdedRelu": _activation(lambda value, alpha: functional.threshold(value, alpha, 0.0), alpha=1.0),
}
