"""Check a structure against reality: resize the graph, run its shapes, compare with what the rules predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import numpy as np
import onnx

from inn_core.arrays import Array
from inn_core.errors import InnError
from inn_core.graph.analysis.shapes import trace_model
from inn_core.graph.axis import axis_size
from inn_core.graph.node import read_nodes
from inn_core.graph.resized import resize_template
from inn_core.graph.structure import Structure, Template

N_RANDOM_PLANS = 3


def first_disagreement(
    model: onnx.ModelProto,
    structure: Structure,
    weights: Mapping[str, Array],
    input_shapes: Mapping[str, tuple[int, ...]],
    distrusted: Set[str],
) -> tuple[str, str] | None:
    """The first node that does not run as its rule predicts when sizes change.

    Args:
        model: the template's graph at full size.
        input_shapes: with a batch of 1.
        distrusted: nodes already frozen; a disagreement there is blamed on the nearest trusted node before.

    Returns:
        `(node name, reason)`, or None when all plans tried agree: smallest sizes and random ones.
    """
    nodes = read_nodes(model.graph)
    template = Template(model=model, weights={})
    for sizes in _plans(structure):
        shapes = {name: tuple(axis_size(axis, sizes) for axis in axes) for name, axes in structure.weights.items()}
        culprit: str | None = None
        reason = ""
        try:
            model_sized = resize_template(template, structure, sizes)
            traced = trace_model(model_sized, weights, input_shapes, weight_shapes=shapes)
        except InnError as error:
            culprit = str(error.fields.get("node", ""))
            reason = f"node '{culprit}' does not run at other sizes: {error.message}"
        else:
            for node in nodes:
                for name in node.outputs:
                    if not name or name not in structure.values:
                        continue
                    predicted = tuple(axis_size(axis, sizes) for axis in structure.values[name])
                    if traced.shapes[name] != predicted and culprit is None:
                        culprit = node.name
                        reason = (
                            f"the rule of {node.operator} predicts {list(predicted)} for '{name}', "
                            f"the graph gives {list(traced.shapes[name])}"
                        )
        if culprit is not None:
            names = [node.name for node in nodes]
            position = names.index(culprit) if culprit in names else len(names) - 1
            while names[position] in distrusted and position > 0:
                position -= 1
            return names[position], reason
    return None


def _plans(structure: Structure) -> Iterator[dict[str, int]]:
    if not structure.groups:
        return
    yield {group.name: group.minimum for group in structure.groups}
    generator = np.random.default_rng(0)
    for _ in range(N_RANDOM_PLANS):
        yield {group.name: int(generator.integers(group.minimum, group.size + 1)) for group in structure.groups}
