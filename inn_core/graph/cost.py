"""What a size of a network costs: parameters, multiply-accumulates and file bytes as functions of the group sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from onnx import helper

from inn_core.arrays import FloatArray, IntArray
from inn_core.graph.onnx_bytes import graph_head, initializer_head
from inn_core.graph.polynomial import Polynomial, compile_polynomial
from inn_core.graph.resized import resize_template
from inn_core.graph.structure import Group, Structure, Template, Term

Unit = Literal["params", "macs", "bytes"]
UNITS: tuple[Unit, ...] = get_args(Unit)
PATH_UNITS: tuple[Unit, ...] = ("params", "macs")
"""Units that have a size path of their own; bytes follow parameters."""


@dataclass(frozen=True)
class CostModel:
    """Costs of a network for any sizes of its groups; columns of `sizes` arrays follow `groups`.

    Attributes:
        groups: the groups of the structure, in its order.
        polynomials: one per unit.
    """

    groups: tuple[Group, ...]
    polynomials: Mapping[Unit, Polynomial]

    @classmethod
    def of(cls, template: Template, structure: Structure) -> CostModel:
        """The costs of a template and its structure.

        Raises:
            GraphTooLargeError: a cost passes 2^63.
        """
        full = structure.full_sizes()
        elements = [Term(1, axes) for axes in structure.weights.values()]
        raw_bytes = [Term(_item_bytes(template, name), axes) for name, axes in structure.weights.items()]
        frame = _frame_bytes(template, structure)
        return cls(
            groups=structure.groups,
            polynomials={
                "params": compile_polynomial(elements, full),
                "macs": compile_polynomial(structure.macs, full),
                "bytes": compile_polynomial(raw_bytes, full, constant=frame),
            },
        )

    def evaluate(self, unit: Unit, sizes: IntArray) -> IntArray:
        """Cost of every plan.

        Args:
            unit: `params` counts every element of every float initializer, `macs` the multiply-accumulates of one
                sample, `bytes` the ONNX file. Bytes are exact at the full size and an upper bound below it: the
                length fields of the file are taken at their full size, which adds a few bytes per weight at most.
            sizes: shape `(n_plans, n_groups)`, none above the full size.

        Returns:
            Exact integers, shape `(n_plans,)`. Never larger for smaller sizes.
        """
        return self.polynomials[unit].values(sizes)

    def savings(self, unit: Unit, sizes: IntArray) -> FloatArray:
        """What each group alone would save by giving up one channel; `sizes` and result have shape `(n_groups,)`."""
        return -np.rint(self.polynomials[unit].changes(sizes, np.full((len(sizes), 1), -1))[:, 0])

    def full(self) -> IntArray:
        """Full sizes, shape `(n_groups,)`."""
        return np.array([group.size for group in self.groups], dtype=np.int64)

    def minimum(self) -> IntArray:
        """Smallest sizes, shape `(n_groups,)`."""
        return np.array([group.minimum for group in self.groups], dtype=np.int64)

    def to_row(self, sizes: Mapping[str, int]) -> IntArray:
        """Sizes by group name as an array of one row, shape `(1, n_groups)`."""
        return np.array([[sizes[group.name] for group in self.groups]], dtype=np.int64).reshape(1, len(self.groups))

    def to_sizes(self, row: IntArray) -> dict[str, int]:
        """Inverse of `to_row` for a row of shape `(n_groups,)`."""
        return {group.name: int(size) for group, size in zip(self.groups, row, strict=True)}


def _item_bytes(template: Template, name: str) -> int:
    return helper.tensor_dtype_to_np_dtype(template.weights[name][1]).itemsize


def _frame_bytes(template: Template, structure: Structure) -> int:
    """Size of the full-size file without the raw data of its weights."""
    model = resize_template(template, structure, structure.full_sizes())
    graph_bytes = int(model.graph.ByteSize())
    raw_total = 0
    for name, (shape, element_type) in template.weights.items():
        raw = _item_bytes(template, name)
        for size in shape:
            raw *= size
        raw_total += raw
        graph_bytes += len(initializer_head(name, shape, element_type, raw)) + raw
    graph_field = len(graph_head(graph_bytes)) + graph_bytes
    model.ClearField("graph")
    return int(model.ByteSize()) + graph_field - raw_total
