"""From a normalized graph to its groups: run every operator rule, then collect the factors that stayed free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inn_core.arrays import Array
from inn_core.errors import InvalidFreezeError
from inn_core.graph.analysis.factors import FactorAxis, factors_of, freeze, name_axis, reason_of, size_of
from inn_core.graph.analysis.flow import Flow, where
from inn_core.graph.analysis.rules import RULES
from inn_core.graph.analysis.rules.linear import KERNEL_WINDOW
from inn_core.graph.axis import axis_groups
from inn_core.graph.node import Node
from inn_core.graph.structure import FrozenAxis, Group, SizeAttribute, SizeConstant, Structure, Term


def analyse(
    nodes: Sequence[Node],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, Array],
    weights: Mapping[str, tuple[int, ...]],
    outputs: Sequence[str],
    frozen: Sequence[tuple[str, int]] = (),
    distrusted: Mapping[str, str] | None = None,
) -> Structure:
    """Find the groups of a graph.

    Args:
        nodes: in topological order.
        shapes: full shape of every value for one sample.
        constants: integer, boolean and string constants.
        weights: shape of every float initializer, in file order.
        outputs: names of the graph outputs; they keep their size.
        frozen: `(tensor, axis)` that the user wants to keep; weights or activations.
        distrusted: `node name -> reason`: nodes to treat as if they had no rule.

    Returns:
        The structure. Whatever a rule cannot explain is frozen with the node named.

    Raises:
        InvalidFreezeError: a tensor or axis to freeze does not exist.
    """
    flow = Flow(shapes, constants, weights)
    for node in nodes:
        rule = RULES.get(node.operator)
        reason = (distrusted or {}).get(node.name)
        if rule is None or reason is not None:
            flow.freeze_node(node, reason or f"no rule for {where(node)}")
        else:
            rule(flow, node)
    for name in outputs:
        for axis in flow.of(name):
            freeze(axis, "graph output")
    for tensor, position in frozen:
        freeze(_user_axis(flow, tensor, position), "frozen by the user")
    return _collect(flow)


def _user_axis(flow: Flow, tensor: str, position: int) -> FactorAxis:
    if tensor not in flow.axes:
        close = [name for name in flow.weights if tensor in name][:5] or list(flow.weights)[:5]
        raise InvalidFreezeError(
            f"there is no tensor '{tensor}' to freeze; weights are named like: {', '.join(close)}", tensor=tensor
        )
    axes = flow.axes[tensor]
    if not 0 <= position < len(axes):
        raise InvalidFreezeError(
            f"tensor '{tensor}' has axes 0 to {len(axes) - 1}; axis {position} does not exist",
            tensor=tensor,
            axis=position,
        )
    return axes[position]


def _collect(flow: Flow) -> Structure:
    names, order, places = _name_factors(flow)
    groups = tuple(
        Group(name=names[key], size=size, minimum=1, places=tuple(places[key])) for key, size in order.items()
    )
    weights = {name: tuple(name_axis(axis, names) for axis in flow.axes[name]) for name in flow.weights}
    values = {
        name: tuple(name_axis(axis, names) for axis in axes) for name, axes in flow.axes.items() if name in flow.shapes
    }
    constants = [
        SizeConstant(initializer=name, position=position, axis=name_axis(axis, names))
        for name, position, axis in flow.size_constants
    ]
    attributes = [
        SizeAttribute(node=node, attribute=attribute, axis=name_axis(axis, names))
        for node, attribute, axis in flow.size_attributes
    ]
    macs = [
        Term(coefficient=coefficient, axes=tuple(name_axis(axis, names) for axis in axes))
        for coefficient, axes in flow.macs
    ]
    return Structure(
        groups=groups,
        weights=weights,
        values=values,
        constants=tuple(entry for entry in constants if axis_groups(entry.axis)),
        attributes=tuple(entry for entry in attributes if axis_groups(entry.axis)),
        macs=tuple(macs),
        frozen=tuple(_frozen_axes(flow)),
    )


def _name_factors(flow: Flow) -> tuple[dict[int, str], dict[int, int], dict[int, list[tuple[str, int]]]]:
    """Name each free factor after the first weight axis it touches; all values are keyed by the factor's identity."""
    names: dict[int, str] = {}
    sizes: dict[int, int] = {}
    places: dict[int, list[tuple[str, int]]] = {}
    taken: set[str] = set()
    every_axis = [(name, i, axis) for name in flow.weights for i, axis in enumerate(flow.axes[name])]
    for tensor, position, axis in every_axis:
        for factor in factors_of(axis):
            key = id(factor)
            if key not in names:
                base = tensor.removesuffix(".weight").removesuffix("_weight")
                base = base if position == 0 else f"{base}:{position}"
                name, n = base, 1
                while name in taken:
                    n += 1
                    name = f"{base}#{n}"
                taken.add(name)
                names[key], sizes[key], places[key] = name, factor.size, []
            if (tensor, position) not in places[key]:
                places[key].append((tensor, position))
    for axes in flow.axes.values():
        for axis in axes:
            for factor in factors_of(axis):
                if id(factor) not in names:  # no weight has this size: nothing could be resized by it
                    factor.fixed = "no weight follows it"
    return names, sizes, places


def _frozen_axes(flow: Flow) -> list[FrozenAxis]:
    result = []
    for tensor in flow.weights:
        for position, axis in enumerate(flow.axes[tensor]):
            reason = reason_of(axis)
            if size_of(axis) > 1 and not factors_of(axis) and reason != KERNEL_WINDOW:
                result.append(
                    FrozenAxis(tensor=tensor, axis=position, size=size_of(axis), reason=reason or "graph input")
                )
    return result
