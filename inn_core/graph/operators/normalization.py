"""Normalization layers, at inference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import (
    Inputs,
    Operator,
    Outputs,
    axis_of,
    compute_dtype,
    optional,
    refusal,
    required,
    together,
)


def batch_normalization(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """BatchNormalization with stored statistics: (batch, channels, ...) and four tensors of (channels,)."""
    value, scale, bias, mean, variance = together(*(required(node, inputs, position) for position in range(5)))
    if node.attributes.get("training_mode", 0) or not node.attributes.get("spatial", 1):
        raise refusal(node, "only inference with one statistic per channel is possible")
    epsilon = node.attributes.get("epsilon", 1e-5)
    if value.dim() >= 2 and all(tensor.dtype == value.dtype for tensor in (scale, bias, mean, variance)):
        return (functional.batch_norm(value, mean, variance, scale, bias, False, 0.0, epsilon),)
    shape = (-1, *([1] * (value.dim() - 2)))
    wide = torch.promote_types(compute_dtype(value), variance.dtype)
    factor = (scale.to(wide) / (variance.to(wide) + epsilon).sqrt()).reshape(shape)
    centred = value.to(wide) - mean.to(wide).reshape(shape)
    return ((centred * factor + bias.to(wide).reshape(shape)).to(value.dtype),)


def instance_normalization(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """InstanceNormalization: statistics of every channel of every sample."""
    value, scale, bias = together(*(required(node, inputs, position) for position in range(3)))
    # one group per channel is the same; torch's own instance_norm refuses maps of a single element
    return (functional.group_norm(value, value.shape[1], scale, bias, node.attributes.get("epsilon", 1e-5)),)


def group_normalization(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """GroupNormalization: scale and bias per channel, or before operator set 21 per group."""
    value, scale, bias = together(*(required(node, inputs, position) for position in range(3)))
    groups = node.attributes["num_groups"]
    if opset < 21:
        per_group = value.shape[1] // groups
        scale, bias = scale.repeat_interleave(per_group), bias.repeat_interleave(per_group)
    return (functional.group_norm(value, groups, scale, bias, node.attributes.get("epsilon", 1e-5)),)


def layer_normalization(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """LayerNormalization over all axes from `axis` on; optional outputs are the mean and 1 / deviation."""
    value, scale, bias = required(node, inputs, 0), required(node, inputs, 1), optional(inputs, 2)
    if bias is None:
        value, scale = together(value, scale)
    else:
        value, scale, bias = together(value, scale, bias)
    epsilon = node.attributes.get("epsilon", 1e-5)
    axis = axis_of(node, node.attributes.get("axis", -1), value.dim())
    normalized = value.shape[axis:]
    if len(node.outputs) == 1 and scale.shape == normalized and (bias is None or bias.shape == normalized):
        return (functional.layer_norm(value, normalized, scale, bias, epsilon),)
    axes = list(range(axis, value.dim()))
    wide = value.to(compute_dtype(value))
    mean = wide.mean(axes, keepdim=True)
    centred = wide - mean
    inverse = (centred.square().mean(axes, keepdim=True) + epsilon).rsqrt()
    result = (centred * inverse).to(value.dtype) * scale
    if bias is not None:
        result = result + bias
    stash = torch.float32 if node.attributes.get("stash_type", 1) == 1 else value.dtype
    return (result, mean.to(stash), inverse.to(stash))


def rms_normalization(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """RMSNormalization over all axes from `axis` on."""
    value, scale = together(required(node, inputs, 0), required(node, inputs, 1))
    axis = axis_of(node, node.attributes.get("axis", -1), value.dim())
    wide = value.to(compute_dtype(value))
    square = wide.square().mean(list(range(axis, value.dim())), keepdim=True)
    return ((wide * (square + node.attributes.get("epsilon", 1e-5)).rsqrt()).to(value.dtype) * scale,)


def local_response_normalization(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """LRN: divides by a power of the sum of squares over neighbouring channels."""
    value = required(node, inputs, 0)
    size = node.attributes["size"]
    alpha, beta = node.attributes.get("alpha", 1e-4), node.attributes.get("beta", 0.75)
    # torch's own local_response_norm leans to the other side when the size is even
    squares = functional.pad(value.square().flatten(2).unsqueeze(1), (0, 0, (size - 1) // 2, size // 2))
    mean = functional.avg_pool2d(squares, (size, 1), stride=1).reshape(value.shape)
    return (value / (node.attributes.get("bias", 1.0) + alpha * mean) ** beta,)


def lp_normalization(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """LpNormalization: divides by the 1- or 2-norm along one axis; where that is 0, gives 0."""
    value = required(node, inputs, 0)
    axis = axis_of(node, node.attributes.get("axis", -1), value.dim())
    order = node.attributes.get("p", 2)
    if order not in (1, 2):
        raise refusal(node, f"p={order} is neither 1 nor 2")
    norm: Tensor = torch.linalg.vector_norm(value, order, axis, keepdim=True)
    return (value / torch.where(norm == 0, torch.ones_like(norm), norm),)


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": batch_normalization,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "LRN": local_response_normalization,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
    "RMSNormalization": rms_normalization,
}
