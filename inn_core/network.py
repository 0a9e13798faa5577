"""The integral network as data: template, weights, groups, orders, statistics and size paths of one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from inn_core.graph.axis import Axis

Array = NDArray[Any]

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


@dataclass(frozen=True)
class Checkpoint:
    """One network in every size: what a `.inn` checkpoint holds.

    Attributes:
        name: matches `^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`.
        weights: full-size float weights by initializer name.
        orders: nested order of every group, a permutation, shape `(size,)`: size m keeps `sort(order[:m])`.
        paths: `unit ("params" | "macs") -> group index removed at each step`, from the full network to the smallest.
        curves: `group -> damage` predicted when the group alone has size m, shape `(size + 1,)`, index m.
        statistics: arrays for `instant`, by name.
        calibration: samples by graph input, samples first, in their smallest dtype; empty with `--statistics-only`.
        sampling: how sizes are taken from trained parameters, JSON members (`sampler.py`); empty when never trained.
        provenance: JSON object: source digest, tool versions, recipe, options of the import.
    """

    name: str
    template: Template
    weights: Mapping[str, Array]
    structure: Structure
    orders: Mapping[str, NDArray[np.int64]]
    paths: Mapping[str, NDArray[np.int32]]
    curves: Mapping[str, NDArray[np.float64]]
    statistics: Mapping[str, Array] = field(default_factory=dict)
    calibration: Mapping[str, Array] = field(default_factory=dict)
    sampling: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
