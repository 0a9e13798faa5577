"""Rules of the operators that contract: convolutions and matrix products. They also count multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Callable

from inn_core.graph.analysis.factors import FactorAxis, fixed_axis, freeze, fresh_axis, product_of, size_of
from inn_core.graph.analysis.flow import Flow, where
from inn_core.graph.analysis.rules.elementwise import broadcast_axes
from inn_core.graph.node import Node


def convolution(flow: Flow, node: Node) -> None:
    """Conv: input . W1, output = W0; depthwise: input = W0 = output; grouped: input [G.Ci], W0 [G.Co], W1 [Ci]."""
    data, weight = flow.of(node.inputs[0]), flow.of(node.inputs[1])
    shape = flow.shapes[node.outputs[0]]
    groups = int(node.attributes.get("group", 1))
    _freeze_window(node, weight)
    if groups == 1:
        flow.tie(node, data[1], weight[1])
    elif size_of(weight[1]) == 1 and groups == size_of(data[1]):
        multiplier = size_of(weight[0]) // groups
        flow.tie(node, weight[0], product_of([data[1], fixed_axis(multiplier)], where(node)))
        flow.size_attributes.append((node.name, "group", data[1]))
    else:
        flow.tie(node, data[1], product_of([fixed_axis(groups), weight[1]], where(node)))
        outer = fresh_axis(size_of(weight[0]) // groups, f"{node.inputs[1]}:0")
        flow.tie(node, weight[0], product_of([fixed_axis(groups), outer], where(node)))
    _tie_bias(flow, node, weight[0])
    flow.write(node, 0, [data[0], weight[0], *(fixed_axis(size) for size in shape[2:])])
    _freeze_spatial(flow, node)
    flow.macs.append((math.prod(shape[2:]), tuple(weight)))


def transposed_convolution(flow: Flow, node: Node) -> None:
    """ConvTranspose: the roles of W0 and W1 are swapped."""
    data, weight = flow.of(node.inputs[0]), flow.of(node.inputs[1])
    shape = flow.shapes[node.outputs[0]]
    groups = int(node.attributes.get("group", 1))
    _freeze_window(node, weight)
    flow.tie(node, data[1], weight[0])
    if groups == 1:
        out = weight[1]
    elif groups == size_of(weight[0]) and size_of(weight[1]) == 1:
        out = data[1]
        flow.size_attributes.append((node.name, "group", data[1]))
    else:
        inner = fresh_axis(size_of(weight[0]) // groups, f"{node.inputs[1]}:0")
        flow.tie(node, weight[0], product_of([fixed_axis(groups), inner], where(node)))
        out = product_of([fixed_axis(groups), weight[1]], where(node))
    _tie_bias(flow, node, out)
    flow.write(node, 0, [data[0], out, *(fixed_axis(size) for size in shape[2:])])
    spatial_in = math.prod(flow.shapes[node.inputs[0]][2:])
    _freeze_spatial(flow, node)
    flow.macs.append((spatial_in, tuple(weight)))


def gemm(flow: Flow, node: Node) -> None:
    """Gemm: contraction unifies, free axes pass, C broadcasts to the result."""
    a, b = list(flow.of(node.inputs[0])), list(flow.of(node.inputs[1]))
    if node.attributes.get("transA", 0):
        a.reverse()
    if node.attributes.get("transB", 0):
        b.reverse()
    flow.tie(node, a[1], b[0])
    result = [a[0], b[1]]
    if len(node.inputs) > 2 and node.inputs[2]:
        result = broadcast_axes(flow, node, [result, flow.of(node.inputs[2])])
    flow.write(node, 0, result)
    flow.macs.append((1, (a[0], a[1], b[1])))


def matmul(flow: Flow, node: Node) -> None:
    """MatMul: the last axis of A with the last but one of B; the axes before broadcast."""
    a, b = list(flow.of(node.inputs[0])), list(flow.of(node.inputs[1]))
    left, contracted, right = a[:-1], a[-1], b[-2] if len(b) > 1 else b[-1]
    flow.tie(node, contracted, right)
    if len(a) == 1 or len(b) == 1:
        batch: list[FactorAxis] = left if len(b) == 1 else b[:-2]
        result = batch if len(b) == 1 else [*batch, b[-1]]
    else:
        batch = broadcast_axes(flow, node, [a[:-2], b[:-2]])
        result = [*batch, a[-2], b[-1]]
    flow.write(node, 0, result)
    flow.macs.append((1, (*result, contracted)))


def einsum(flow: Flow, node: Node) -> None:
    """Einsum with plain letters: equal letters change together."""
    equation = node.attributes["equation"]
    equation = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    if "..." in equation or "->" not in equation:
        flow.freeze_node(node, f"no rule for the equation '{equation}' at {where(node)}")
        return
    terms, result = equation.split("->")
    letters: dict[str, FactorAxis] = {}
    for name, term in zip(node.inputs, terms.split(","), strict=True):
        for letter, axis in zip(term, flow.of(name), strict=True):
            if letter in letters:
                flow.tie(node, letters[letter], axis)
            letters.setdefault(letter, axis)
    flow.write(node, 0, [letters[letter] for letter in result])
    flow.macs.append((1, tuple(letters.values())))


def _tie_bias(flow: Flow, node: Node, out: FactorAxis) -> None:
    if len(node.inputs) > 2 and node.inputs[2]:
        flow.tie(node, flow.of(node.inputs[2])[0], out)


def _freeze_window(node: Node, weight: list[FactorAxis]) -> None:
    for axis in weight[2:]:
        freeze(axis, KERNEL_WINDOW)


def _freeze_spatial(flow: Flow, node: Node) -> None:
    """A convolution slides over its spatial axes: a resizable one (channels moved there) must keep its size."""
    for axis in flow.of(node.inputs[0])[2:]:
        freeze(axis, f"convolved over at {where(node)}")


KERNEL_WINDOW = "kernel window"

RULES: dict[str, Callable[[Flow, Node], None]] = {
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Gemm": gemm,
    "MatMul": matmul,
    "Einsum": einsum,
}
