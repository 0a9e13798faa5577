"""Set the integers of a template that follow the group sizes: Reshape targets, Split sizes, `group` attributes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from inn_core.errors import InvalidOnnxError
from inn_core.graph.axis import axis_size
from inn_core.graph.structure import Structure, Template


def resize_template(template: Template, structure: Structure, sizes: Mapping[str, int]) -> onnx.ModelProto:
    """The graph of a discrete model, still without weights.

    Args:
        template: the graph without weights.
        structure: how its sizes follow the groups.
        sizes: a size for every group.

    Returns:
        A copy of the template with every size constant and size attribute evaluated, and without the recorded
        shapes of intermediate values, which belong to the full size. Inputs and outputs are unchanged.

    Raises:
        InvalidOnnxError: the structure names an initializer, position or node that the template does not have.
    """
    model = onnx.ModelProto()
    model.CopyFrom(template.model)
    del model.graph.value_info[:]
    _set_constants(model.graph, structure, sizes)
    _set_attributes(model.graph, structure, sizes)
    return model


def _set_constants(graph: onnx.GraphProto, structure: Structure, sizes: Mapping[str, int]) -> None:
    changes: dict[str, dict[int, int]] = {}
    for constant in structure.constants:
        changes.setdefault(constant.initializer, {})[constant.position] = axis_size(constant.axis, sizes)
    for initializer in graph.initializer:
        wanted = changes.pop(initializer.name, None)
        if wanted is None:
            continue
        array = numpy_helper.to_array(initializer).copy()
        flat = array.reshape(-1)
        for position, value in wanted.items():
            fits = 0 <= position < flat.size and np.issubdtype(flat.dtype, np.integer)
            if not fits or value > np.iinfo(flat.dtype).max:
                raise InvalidOnnxError(
                    f"constant '{initializer.name}' holds {flat.size} values of {flat.dtype}, "
                    f"but the size {value} belongs at position {position}; import the network again",
                    initializer=initializer.name,
                )
            flat[position] = value
        initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    if changes:
        name = next(iter(changes))
        raise InvalidOnnxError(
            f"a size belongs in constant '{name}', which the template lacks; import the network again",
            initializer=name,
        )


def _set_attributes(graph: onnx.GraphProto, structure: Structure, sizes: Mapping[str, int]) -> None:
    if not structure.attributes:
        return
    nodes = {node.name: node for node in graph.node}
    for attribute in structure.attributes:
        node = nodes.get(attribute.node)
        if node is None:
            raise InvalidOnnxError(
                f"a size belongs to node '{attribute.node}', which the template lacks; import the network again",
                node=attribute.node,
            )
        size = axis_size(attribute.axis, sizes)
        if size > np.iinfo(np.int64).max:
            raise InvalidOnnxError(
                f"attribute '{attribute.attribute}' of node '{node.name}' would be {size}; import the network again",
                node=node.name,
            )
        value = helper.make_attribute(attribute.attribute, size)
        found = next((a for a in node.attribute if a.name == attribute.attribute), None)
        if found is None:
            node.attribute.append(value)
        else:
            found.CopyFrom(value)
