"""Matrix products: MatMul, Gemm, Einsum."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import Inputs, Operator, Outputs, optional, required, together


def matmul(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """MatMul as numpy defines it: batch axes broadcast, vectors are allowed."""
    first, second = required(node, inputs, 0), required(node, inputs, 1)
    if first.device != second.device:
        first, second = together(first, second)
    return (torch.matmul(first, second),)


def gemm(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Gemm: `alpha * A @ B + beta * C`, A and B transposed when the node says so, C broadcast to the product."""
    value, weight, bias = required(node, inputs, 0), required(node, inputs, 1), optional(inputs, 2)
    if bias is None:
        value, weight = together(value, weight)
    else:
        value, weight, bias = together(value, weight, bias)
    attributes = node.attributes
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    if attributes.get("transA", 0):
        value = value.t()
    plain = alpha == 1.0 and (bias is None or (beta == 1.0 and bias.dim() == 1 and value.is_floating_point()))
    if plain and attributes.get("transB", 0) and (bias is None or bias.shape[0] == weight.shape[0]):
        return (functional.linear(value, weight, bias),)
    product = value @ (weight.t() if attributes.get("transB", 0) else weight)
    product = _scaled(product, alpha)
    if bias is not None:
        product = product + _scaled(bias, beta)
    return (product,)


def _scaled(value: Tensor, factor: float) -> Tensor:
    return value if factor == 1.0 else (value * factor).to(value.dtype)


def einsum(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Einsum with the node's equation."""
    operands = together(*(required(node, inputs, position) for position in range(len(inputs))))
    return (torch.einsum(node.attributes["equation"].replace(" ", ""), *operands),)


OPERATORS: dict[str, Operator] = {"Einsum": einsum, "Gemm": gemm, "MatMul": matmul}
