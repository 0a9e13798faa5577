"""One node of a graph as plain data: operator, names of its inputs and outputs, attributes as Python values.

Everything that walks a template (execution, operator rules, refinement) reads these instead of protobuf messages,
which are slow to query and hide the difference between an absent and an empty attribute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto

from inn_core.errors import InvalidOnnxError


@dataclass(frozen=True)
class Node:
    """One node of a graph.

    Attributes:
        name: unique in its graph.
        operator: ONNX operator type, with its domain in front (`com.example.Foo`) when that is not the default one.
        inputs: names of the values it reads; `''` is an optional input that is absent.
        outputs: names of the values it writes; `''` is an optional output that nobody wants.
        attributes: int, float, str, lists of these, numpy arrays for tensors, protobuf messages for the rest.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


def default_opset(model: onnx.ModelProto) -> int:
    """Version of the default operator set.

    Raises:
        InvalidOnnxError: the model does not import the default domain.
    """
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    raise InvalidOnnxError("the model imports no version of the default operator set (domain '')")


def read_nodes(graph: onnx.GraphProto) -> tuple[Node, ...]:
    """The nodes of a graph, in file order, each with a unique name.

    A node without a name gets its operator and position (`Conv_3`); a name that is taken gets the first free
    suffix (`Conv_3_1`). Equal graphs give equal names.

    Args:
        graph: the graph; nodes of its subgraphs are not visited.

    Returns:
        One `Node` per node of `graph`, in the same order.
    """
    given = {proto.name for proto in graph.node if proto.name}
    used: set[str] = set()
    nodes: list[Node] = []
    for position, proto in enumerate(graph.node):
        operator = f"{proto.domain}.{proto.op_type}" if proto.domain not in ("", "ai.onnx") else proto.op_type
        name = proto.name or f"{operator}_{position}"
        if name in used or (not proto.name and name in given):
            stem, suffix = name, 1
            while name in used or name in given:
                name, suffix = f"{stem}_{suffix}", suffix + 1
        used.add(name)
        attributes = {attribute.name: _value(attribute) for attribute in proto.attribute}
        nodes.append(Node(name, operator, tuple(proto.input), tuple(proto.output), attributes))
    return tuple(nodes)


def _value(attribute: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.STRING:
        return value.decode("utf-8", errors="replace")
    if attribute.type == AttributeProto.STRINGS:
        return [item.decode("utf-8", errors="replace") for item in value]
    if attribute.type == AttributeProto.TENSOR:
        return onnx.numpy_helper.to_array(value)
    if attribute.type == AttributeProto.TENSORS:
        return [onnx.numpy_helper.to_array(item) for item in value]
    if attribute.type in (AttributeProto.FLOATS, AttributeProto.INTS):
        return list(value)
    return value
