"""How sizes flow through a graph, as data: its template, its groups, and the integers and costs that follow them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from inn_core.graph.axis import Axis

Sizes = Mapping[str, int]
"""A size for every group, by name."""


@dataclass(frozen=True)
class Group:
    """One resizable count: the channels that must change together.

    Attributes:
        name: unique, stable; that of the first weight axis the group touches.
        size: full size.
        minimum: smallest size, at least 1.
        places: `(weight name, axis position)` of every weight axis the group occurs in.
    """

    name: str
    size: int
    minimum: int
    places: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class FrozenAxis:
    """A weight axis that keeps its size, and why."""

    tensor: str
    axis: int
    size: int
    reason: str


@dataclass(frozen=True)
class SizeConstant:
    """An integer inside a constant of the template that follows the groups: `initializer[position] = size of axis`."""

    initializer: str
    position: int
    axis: Axis


@dataclass(frozen=True)
class SizeAttribute:
    """An integer attribute of a node that follows the groups, such as `group` of a depthwise convolution."""

    node: str
    attribute: str
    axis: Axis


@dataclass(frozen=True)
class Term:
    """One summand of a cost: `coefficient` times the sizes of `axes`."""

    coefficient: int
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Structure:
    """How sizes flow through a template: the result of unification.

    Attributes:
        groups: every group, in a stable order; arrays of sizes have one column per group in this order.
        weights: axes of every float initializer.
        values: axes of every tensor that a node writes or the graph reads (activations); the batch axis is fixed(1).
        constants, attributes: integers of the template that follow the sizes.
        macs: multiply-accumulates of one sample.
        frozen: weight axes that keep their size, with the reason.
    """

    groups: tuple[Group, ...]
    weights: Mapping[str, tuple[Axis, ...]]
    values: Mapping[str, tuple[Axis, ...]]
    constants: tuple[SizeConstant, ...]
    attributes: tuple[SizeAttribute, ...]
    macs: tuple[Term, ...]
    frozen: tuple[FrozenAxis, ...]

    def full_sizes(self) -> dict[str, int]:
        """Full size of every group."""
        return {group.name: group.size for group in self.groups}


@dataclass(frozen=True)
class Template:
    """An ONNX graph without its weights.

    Attributes:
        model: a `ModelProto` whose float initializers are removed; integer, boolean and string constants stay as
            initializers. Nodes are in topological order, each with a unique name; no doc strings or metadata.
        weights: `name -> (shape, ONNX element type)` of the removed initializers, in file order.
    """

    model: onnx.ModelProto
    weights: Mapping[str, tuple[tuple[int, ...], int]]
