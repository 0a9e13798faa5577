"""Bring a checked ONNX model to the form that analysis works on: a template and a dictionary of weights.

After it: no Constant, Identity, Dropout or BatchNormalization nodes; nothing computed from constants alone; shapes that
the exporter computed with Shape/Gather/Concat chains are constants; every Split names its sizes; every integer constant
belongs to one node; nodes are named and live.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from inn_core.arrays import Array
from inn_core.errors import InvalidOnnxError
from inn_core.graph.node import default_opset, read_nodes

FLOAT_TYPES = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})
# Integer inputs that carry sizes, by operator and input position.
SIZE_INPUTS = {
    "Reshape": (1,),
    "Split": (1,),
    "Slice": (1, 2, 3, 4),
    "Expand": (1,),
    "Resize": (3,),
    "Pad": (1, 3),
    "Tile": (1,),
    "ConstantOfShape": (0,),
}


class Graph:
    """A graph under normalization: nodes, all constants by name, and the model's declared inputs and outputs.

    Mutable on purpose and private to the import; what leaves it is a Template and weights.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.opset = default_opset(model)
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.constants: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.inputs = [value for value in model.graph.input if value.name not in self.constants]
        self.outputs = list(model.graph.output)
        self._taken = {name for node in self.nodes for name in (*node.input, *node.output)} | set(self.constants)

    def fresh_name(self, base: str) -> str:
        """A value name not used so far."""
        name, n = base, 0
        while name in self._taken:
            n += 1
            name = f"{base}_{n}"
        self._taken.add(name)
        return name

    def readers(self) -> Counter[str]:
        """How many times each value is read; a graph output counts as one."""
        return Counter([name for node in self.nodes for name in node.input] + [value.name for value in self.outputs])

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that writes each value."""
        return {name: node for node in self.nodes for name in node.output if name}

    def rename_reads(self, old: str, new: str) -> None:
        """Let every node that reads `old` read `new`."""
        for node in self.nodes:
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new

    def to_model(self) -> onnx.ModelProto:
        """The graph as a ModelProto without weights: float initializers are left out."""
        model = onnx.ModelProto()
        model.CopyFrom(_shell(self.model))
        model.graph.node.extend(self.nodes)
        model.graph.input.extend(self.inputs)
        model.graph.output.extend(self.outputs)
        for name, array in self.constants.items():
            if not is_weight(array):
                model.graph.initializer.append(numpy_helper.from_array(array, name))
        return model


def is_weight(array: Array) -> bool:
    """Float constants are weights; integers, booleans and strings belong to the template."""
    return np.issubdtype(array.dtype, np.floating)


def is_usable(weight: Array) -> bool:
    """Finite; a scalar may be infinite, for a maximum starts there and a mask puts it in: it is no broken weight."""
    return bool(np.isfinite(weight).all()) or (weight.ndim == 0 and bool(np.isinf(weight)))


def simplify(graph: Graph) -> None:
    """The passes that need no shapes: constants, identities, normalization folding, dead code, names."""
    _lift_constants(graph)
    _drop_identities(graph)
    fold_batch_normalization(graph)
    remove_dead(graph)
    name_nodes(graph)


def _lift_constants(graph: Graph) -> None:
    kept = []
    for node in graph.nodes:
        if node.op_type != "Constant":
            kept.append(node)
            continue
        if len(node.attribute) != 1:
            found = ", ".join(attribute.name for attribute in node.attribute) or "nothing"
            raise InvalidOnnxError(
                f"constant '{node.output[0]}' has to have one value, it gives {found}; export the model again",
                node=node.name,
            )
        attribute = node.attribute[0]
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            array = numpy_helper.to_array(value)
        elif attribute.name in ("value_float", "value_floats"):
            array = np.asarray(value, dtype=np.float32)
        elif attribute.name in ("value_int", "value_ints"):
            array = np.asarray(value, dtype=np.int64)
        else:
            array = np.asarray(value, dtype=object)
        graph.constants[node.output[0]] = array
    graph.nodes = kept


def _drop_identities(graph: Graph) -> None:
    outputs = {value.name for value in graph.outputs}
    readers = graph.readers()
    kept: list[onnx.NodeProto] = []
    for node in graph.nodes:
        is_identity = node.op_type == "Identity" or (
            node.op_type == "Dropout" and (len(node.output) < 2 or not readers[node.output[1]])
        )
        if not is_identity:
            kept.append(node)
            continue
        source, target = node.input[0], node.output[0]
        if target not in outputs:
            graph.rename_reads(target, source)
        else:
            kept.append(helper.make_node("Identity", [source], [target], name=node.name))
    graph.nodes = kept


def fold_batch_normalization(graph: Graph) -> None:
    """BatchNormalization goes into the convolution or Gemm before it, where it alone reads that node."""
    producers, readers = graph.producers(), graph.readers()
    kept: list[onnx.NodeProto] = []
    for node in graph.nodes:
        producer = producers.get(node.input[0])
        if (
            node.op_type == "BatchNormalization"
            and producer is not None
            and readers[node.input[0]] == 1
            and _has_constant_statistics(graph, node)
            and _fold(graph, producer, *_affine(graph, node))
        ):
            producer.output[0] = node.output[0]
            producers[node.output[0]] = producer
        else:
            kept.append(node)
    graph.nodes = kept


def decompose_batch_normalization(graph: Graph, ranks: Mapping[str, int]) -> None:
    """The BatchNormalization nodes that are left become a scale and a shift by channel; `ranks` is by value name."""
    result: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if node.op_type != "BatchNormalization" or not _has_constant_statistics(graph, node):
            result.append(node)
            continue
        scale, shift = _affine(graph, node)
        dtype = graph.constants[node.input[1]].dtype
        shape = (-1, *([1] * (ranks[node.input[0]] - 2)))
        scale_name, shift_name = graph.fresh_name(node.input[1]), graph.fresh_name(node.input[2])
        graph.constants[scale_name] = scale.astype(dtype).reshape(shape)
        graph.constants[shift_name] = shift.astype(dtype).reshape(shape)
        scaled = graph.fresh_name(f"{node.output[0]}_scaled")
        result.append(helper.make_node("Mul", [node.input[0], scale_name], [scaled], name=f"{node.name}_scale"))
        result.append(helper.make_node("Add", [scaled, shift_name], [node.output[0]], name=f"{node.name}_shift"))
    graph.nodes = result


def _has_constant_statistics(graph: Graph, node: onnx.NodeProto) -> bool:
    """Inference with stored numbers; in training mode the statistics are those of the batch."""
    training = any(a.name == "training_mode" and a.i for a in node.attribute)
    return not training and all(name in graph.constants for name in node.input[1:5])


def _affine(graph: Graph, node: onnx.NodeProto) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in node.input[1:5])
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def _fold(graph: Graph, node: onnx.NodeProto, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> bool:
    """Multiply the output channels of a linear node by scale and add shift; False when the node cannot take it."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or node.input[1] not in graph.constants:
        return False
    weight = graph.constants[node.input[1]]
    if node.op_type == "Conv":
        axis = 0
    elif node.op_type == "ConvTranspose":
        if attributes.get("group", 1) != 1:
            return False
        axis = 1
    else:
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
            return False
        axis = 0 if attributes.get("transB", 0) else 1
    bias_name = node.input[2] if len(node.input) > 2 and node.input[2] else ""
    if bias_name and (bias_name not in graph.constants or graph.constants[bias_name].size != scale.size):
        return False
    old = graph.constants[bias_name].astype(np.float64).reshape(-1) if bias_name else np.zeros_like(scale)
    shape = [1] * weight.ndim
    shape[axis] = -1
    readers = graph.readers()
    weight_name = node.input[1] if readers[node.input[1]] == 1 else graph.fresh_name(node.input[1])
    if not bias_name or readers[bias_name] > 1:
        bias_name = graph.fresh_name(_bias_name(weight_name))
    graph.constants[weight_name] = (weight.astype(np.float64) * scale.reshape(shape)).astype(weight.dtype)
    graph.constants[bias_name] = (old * scale + shift).astype(weight.dtype)
    node.input[1] = weight_name
    if len(node.input) > 2:
        node.input[2] = bias_name
    else:
        node.input.append(bias_name)
    return True


def _bias_name(weight_name: str) -> str:
    return f"{weight_name[: -len('weight')]}bias" if weight_name.endswith("weight") else f"{weight_name}_bias"


def remove_dead(graph: Graph) -> None:
    """Drop nodes and constants that no output needs."""
    needed = {value.name for value in graph.outputs}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.nodes):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(name for name in node.input if name)
    graph.nodes = kept[::-1]
    graph.constants = {name: array for name, array in graph.constants.items() if name in needed}


def name_nodes(graph: Graph) -> None:
    """Give every node a unique name, kept where the file has one."""
    proto = onnx.GraphProto(node=graph.nodes)
    for node, named in zip(graph.nodes, read_nodes(proto), strict=True):
        node.name = named.name


def make_constants_private(graph: Graph) -> None:
    """Integer constants that carry sizes get one reader each, so that resizing one node leaves others alone."""
    readers = graph.readers()
    for node in graph.nodes:
        for position in SIZE_INPUTS.get(node.op_type, ()):
            if position < len(node.input) and readers[name := node.input[position]] > 1 and name in graph.constants:
                copy = graph.fresh_name(f"{name}_{node.op_type.lower()}")
                graph.constants[copy] = graph.constants[name]
                node.input[position] = copy
                readers[name] -= 1


def fold_constants(graph: Graph, evaluate: Callable[[onnx.NodeProto, list[Array | None]], list[Array]]) -> None:
    """Compute nodes that read constants only; `evaluate` runs one node on arrays."""
    kept = []
    for node in graph.nodes:
        if node.input and all(not name or name in graph.constants for name in node.input):
            values = evaluate(node, [graph.constants[name] if name else None for name in node.input])
            graph.constants.update(dict(zip(node.output, values, strict=False)))
        else:
            kept.append(node)
    for output in graph.outputs:
        if output.name in graph.constants:
            source = graph.fresh_name(f"{output.name}_value")
            graph.constants[source] = graph.constants.pop(output.name)
            graph.rename_reads(output.name, source)
            kept.append(helper.make_node("Identity", [source], [output.name]))
    graph.nodes = kept


def _shell(model: onnx.ModelProto) -> onnx.ModelProto:
    shell = onnx.ModelProto(ir_version=model.ir_version, producer_name="inn-service")
    shell.opset_import.extend(model.opset_import)
    shell.graph.name = model.graph.name or "network"
    return shell
