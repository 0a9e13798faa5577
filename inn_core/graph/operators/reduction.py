"""Reductions over axes, positions of extremes, running sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import Inputs, Operator, Outputs, axes_of, axis_of, integers, refusal, required

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(function: Reduction, *, floats_only: bool = False) -> Operator:
    def run(node: Node, inputs: Inputs, opset: int) -> Outputs:
        value = required(node, inputs, 0)
        if floats_only and not value.is_floating_point():
            raise refusal(node, f"data of type {value.dtype} is not possible")
        axes = axes_of(node, inputs, 1, value.dim())
        if not axes:
            axes = [] if node.attributes.get("noop_with_empty_axes", 0) else list(range(value.dim()))
        return (function(value, axes, bool(node.attributes.get("keepdims", 1))),)

    return run


def _sum(value: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    # torch sums over all axes when given none, and widens integers
    return value.sum(axes, keepdim=keepdim, dtype=value.dtype) if axes else value


def _mean(value: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    if not axes:
        return value
    if value.is_floating_point():
        return value.mean(axes, keepdim=keepdim)
    count = math.prod(value.shape[axis] for axis in axes)
    total = value.sum(axes, keepdim=keepdim, dtype=torch.int64)
    return torch.div(total, count, rounding_mode="trunc").to(value.dtype)


def _product(value: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        value = value.prod(axis, keepdim=keepdim, dtype=value.dtype)
    return value


def _maximum(value: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    return _extreme(value, axes, keepdim, torch.amax, highest=False)


def _minimum(value: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    return _extreme(value, axes, keepdim, torch.amin, highest=True)


def _extreme(
    value: Tensor, axes: list[int], keepdim: bool, function: Callable[..., Tensor], *, highest: bool
) -> Tensor:
    if not axes:
        return value
    if any(value.shape[axis] == 0 for axis in axes):
        sizes = [1 if axis in axes else size for axis, size in enumerate(value.shape)]
        kept = sizes if keepdim else [size for axis, size in enumerate(value.shape) if axis not in axes]
        return torch.full(kept, _limit(value.dtype, highest), dtype=value.dtype, device=value.device)
    return function(value, axes, keepdim=keepdim)


def _limit(dtype: torch.dtype, highest: bool) -> float | int | bool:
    """The neutral element of a minimum (`highest`) or maximum."""
    if dtype == torch.bool:
        return highest
    if dtype.is_floating_point:
        return math.inf if highest else -math.inf
    return torch.iinfo(dtype).max if highest else torch.iinfo(dtype).min


def _norm_1(value: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    return _sum(value.abs(), axes, keepdim)


def _square_sum(value: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    return _sum(value * value, axes, keepdim)


def _norm_2(value: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    return _square_sum(value, axes, keepdim).sqrt()


def _log_sum(value: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    return _sum(value, axes, keepdim).log()


def _log_sum_exp(value: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    # over no axis, log(exp(x)) is x
    return torch.logsumexp(value, axes, keepdim) if axes else value


def _position(function: Callable[..., Tensor]) -> Operator:
    def run(node: Node, inputs: Inputs, opset: int) -> Outputs:
        value = required(node, inputs, 0)
        axis = axis_of(node, node.attributes.get("axis", 0), value.dim())
        keepdim = bool(node.attributes.get("keepdims", 1))
        if not node.attributes.get("select_last_index", 0):
            return (function(value, axis, keepdim=keepdim),)
        return (value.shape[axis] - 1 - function(value.flip(axis), axis, keepdim=keepdim),)

    return run


def cumulative_sum(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """CumSum along one axis, optionally from the end and without the element itself."""
    value = required(node, inputs, 0)
    (axis,) = (axis_of(node, axis, value.dim()) for axis in integers(node, required(node, inputs, 1)))
    reverse = bool(node.attributes.get("reverse", 0))
    if reverse:
        value = value.flip(axis)
    if node.attributes.get("exclusive", 0):
        first = torch.zeros_like(value.narrow(axis, 0, min(1, value.shape[axis])))
        value = torch.cat([first, value.narrow(axis, 0, max(value.shape[axis] - 1, 0))], axis)
    total = value.cumsum(axis, dtype=value.dtype)
    return (total.flip(axis) if reverse else total,)


OPERATORS: dict[str, Operator] = {
    "ArgMax": _position(torch.argmax),
    "ArgMin": _position(torch.argmin),
    "CumSum": cumulative_sum,
    "ReduceL1": _reduction(_norm_1),
    "ReduceL2": _reduction(_norm_2, floats_only=True),
    "ReduceLogSum": _reduction(_log_sum, floats_only=True),
    "ReduceLogSumExp": _reduction(_log_sum_exp, floats_only=True),
    "ReduceMax": _reduction(_maximum),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_minimum),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(_square_sum),
}
