"""Rules of operators that work element by element, with broadcasting, and of those that look along some axes only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inn_core.graph.analysis.factors import FactorAxis, fixed_axis, freeze, size_of
from inn_core.graph.analysis.flow import Flow, where
from inn_core.graph.node import Node


def same(flow: Flow, node: Node) -> None:
    """One input, every output like it."""
    for position in range(len(node.outputs)):
        flow.write(node, position, flow.of(node.inputs[0]))


def broadcast(flow: Flow, node: Node) -> None:
    """Any number of inputs, aligned at the last axis; sizes of 1 stretch."""
    flow.write(node, 0, broadcast_axes(flow, node, [flow.of(name) for name in node.inputs if name]))


def broadcast_axes(flow: Flow, node: Node, operands: Sequence[list[FactorAxis]]) -> list[FactorAxis]:
    """Axes of a broadcast result; the operands' axes that are not 1 change together."""
    rank = max((len(axes) for axes in operands), default=0)
    result: list[FactorAxis] = []
    for i in range(rank):
        aligned = [axes[i - rank + len(axes)] for axes in operands if i - rank + len(axes) >= 0]
        wide = [axis for axis in aligned if size_of(axis) != 1]
        for other in wide[1:]:
            flow.tie(node, wide[0], other)
        result.append(wide[0] if wide else fixed_axis(1))
    return result


def prelu(flow: Flow, node: Node) -> None:
    """The slope broadcasts to the input, never the other way."""
    broadcast(flow, node)


def clip(flow: Flow, node: Node) -> None:
    """Limits are scalars."""
    flow.write(node, 0, flow.of(node.inputs[0]))


def along(default_axis: int, *, statistic: str) -> Callable[[Flow, Node], None]:
    """A rule for operators that need all of one axis: it keeps its size, the others pass."""

    def rule(flow: Flow, node: Node) -> None:
        axes = list(flow.of(node.inputs[0]))
        position = int(node.attributes.get("axis", default_axis))
        _freeze_at(node, axes, [position], statistic)
        flow.write(node, 0, axes)

    return rule


def from_axis(flow: Flow, node: Node) -> None:
    """LayerNormalization and its like: statistics over all axes from `axis` on; scale and bias follow the input."""
    axes = list(flow.of(node.inputs[0]))
    first = int(node.attributes.get("axis", -1)) % len(axes)
    for name in node.inputs[1:]:
        if name:
            broadcast_axes(flow, node, [axes, flow.of(name)])
    _freeze_at(node, axes, range(first, len(axes)), "normalized over")
    flow.write(node, 0, axes)


def channel_window(flow: Flow, node: Node) -> None:
    """LRN sums over neighbouring channels: their number and order stay."""
    axes = list(flow.of(node.inputs[0]))
    _freeze_at(node, axes, [1], "summed over neighbours")
    flow.write(node, 0, axes)


def per_channel(flow: Flow, node: Node) -> None:
    """BatchNormalization and InstanceNormalization: parameters of one axis follow the channels."""
    axes = flow.of(node.inputs[0])
    for name in node.inputs[1:]:
        if name:
            flow.tie(node, flow.of(name)[0], axes[1])
    flow.write(node, 0, axes)


def group_normalization(flow: Flow, node: Node) -> None:
    """Statistics over the channels of a group: the channels keep their size."""
    axes = list(flow.of(node.inputs[0]))
    _freeze_at(node, axes, [1], "normalized over")
    for name in node.inputs[1:]:
        for axis in flow.of(name):
            freeze(axis, f"normalized over at {where(node)}")
    flow.write(node, 0, axes)


def _freeze_at(node: Node, axes: Sequence[FactorAxis], positions: Sequence[int] | range, statistic: str) -> None:
    for position in positions:
        freeze(axes[position], f"{statistic} at {where(node)}")


_UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh "
    "Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Dropout"
)
_BROADCAST = (
    "Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or "
    "Pow Sub Sum Where Xor"
)

RULES: dict[str, Callable[[Flow, Node], None]] = {
    **dict.fromkeys(_UNARY.split(), same),
    **dict.fromkeys(_BROADCAST.split(), broadcast),
    "CastLike": clip,
    "Clip": clip,
    "PRelu": prelu,
    "Softmax": along(-1, statistic="normalized over"),
    "LogSoftmax": along(-1, statistic="normalized over"),
    "Hardmax": along(-1, statistic="compared over"),
    "LpNormalization": along(-1, statistic="normalized over"),
    "CumSum": lambda flow, node: flow.freeze_node(node, f"summed along at {where(node)}"),
    "LayerNormalization": from_axis,
    "RMSNormalization": from_axis,
    "LRN": channel_window,
    "BatchNormalization": per_channel,
    "InstanceNormalization": per_channel,
    "GroupNormalization": group_normalization,
}
