"""The state that operator rules read and write while axes flow through a graph, node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from inn_core.arrays import Array
from inn_core.graph.analysis.factors import FactorAxis, fixed_axis, freeze, fresh_axis, size_of, unify
from inn_core.graph.node import Node


class Flow:
    """Axes of every value seen so far, and what the rules found out about sizes inside the graph.

    Attributes:
        shapes: full shape of every value for one sample.
        constants: integer, boolean and string constants of the template.
        axes: axes of every weight and of every value already written.
        size_constants: `(constant, position, axis)`: integers that follow the axis.
        size_attributes: `(node, attribute, axis)`.
        macs: `(coefficient, axes)` summands of one sample.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        constants: Mapping[str, Array],
        weights: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.shapes = shapes
        self.constants = constants
        self.axes: dict[str, list[FactorAxis]] = {
            name: [fresh_axis(size, f"{name}:{i}") for i, size in enumerate(shape)] for name, shape in weights.items()
        }
        self.weights = weights
        self.size_constants: list[tuple[str, int, FactorAxis]] = []
        self.size_attributes: list[tuple[str, str, FactorAxis]] = []
        self.macs: list[tuple[int, tuple[FactorAxis, ...]]] = []

    def of(self, name: str) -> list[FactorAxis]:
        """Axes of a value; constants of the template have fixed ones."""
        if name in self.constants:
            self.axes.setdefault(name, [fixed_axis(size) for size in self.constants[name].shape])
        elif name not in self.axes:  # nothing writes it: a graph input
            self.axes[name] = [fresh_axis(size, name) for size in self.shapes[name]]
            for axis in self.axes[name]:
                freeze(axis, "graph input")
        return self.axes[name]

    def integers(self, name: str) -> list[int] | None:
        """Values of an integer constant, or None when it is computed at run time."""
        if name not in self.constants:
            return None
        return [int(value) for value in np.asarray(self.constants[name]).reshape(-1)]

    def write(self, node: Node, position: int, axes: Sequence[FactorAxis]) -> None:
        """Set the axes of an output. A rule that does not predict the traced shape freezes instead of guessing."""
        name = node.outputs[position] if position < len(node.outputs) else ""
        if not name:
            return
        shape = self.shapes[name]
        if tuple(size_of(axis) for axis in axes) != shape:
            for axis in axes:
                freeze(axis, f"the rule of {node.operator} does not explain the shape {list(shape)} at {where(node)}")
            axes = [fixed_axis(size) for size in shape]
        self.axes[name] = list(axes)

    def tie(self, node: Node, a: FactorAxis, b: FactorAxis) -> None:
        """Two axes change together."""
        unify(a, b, where(node))

    def freeze_node(self, node: Node, reason: str) -> None:
        """Everything the node reads keeps its size, and so does everything it writes."""
        for name in node.inputs:
            if name:
                for axis in self.of(name):
                    freeze(axis, reason)
        for name in node.outputs:
            if name:
                self.axes[name] = [fixed_axis(size) for size in self.shapes[name]]


def where(node: Node) -> str:
    """How messages name a node."""
    return f"node '{node.name}' ({node.operator})"
