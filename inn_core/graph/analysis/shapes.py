"""Learn every shape of a graph by running it on PyTorch's meta device, and turn computed sizes into constants.

Exporters write sizes as constants or as small Shape/Gather/Concat chains. Running the graph with several batch sizes
without computing any float tells which integers depend on the batch, which on other free sizes of the inputs, and which
are constants of the network: those are written down, and operator rules then see plain numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch

from inn_core.arrays import Array
from inn_core.errors import ExecutionError, InvalidOnnxError
from inn_core.graph.analysis.normalize import SIZE_INPUTS, Graph, is_weight
from inn_core.graph.program import Program

MAX_FOLDED_ELEMENTS = 65_536
INT64_MAX = 2**63 - 1
SHAPED_BY_WEIGHTS = ("Resize", "Upsample")  # their scales are floats


@dataclass(frozen=True)
class Trace:
    """Shapes of all values and the values of all integer tensors, for one set of input shapes."""

    shapes: Mapping[str, tuple[int, ...]]
    integers: Mapping[str, Array]


def trace(graph: Graph, input_shapes: Mapping[str, tuple[int, ...]]) -> Trace:
    """Run a graph under normalization on the meta device; see `trace_model`."""
    weights = {name: array for name, array in graph.constants.items() if is_weight(array)}
    return trace_model(graph.to_model(), weights, input_shapes)


def trace_model(
    model: onnx.ModelProto,
    weights: Mapping[str, Array],
    input_shapes: Mapping[str, tuple[int, ...]],
    *,
    weight_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Trace:
    """Run a graph without weights on the meta device.

    Args:
        model: the graph; float initializers are absent.
        weights: float initializers by name; only those that decide shapes are read.
        input_shapes: full shape of every graph input, with the batch.
        weight_shapes: shapes of the weights where they differ from those of `weights`.

    Raises:
        InvalidOnnxError: a node cannot take the shapes that reach it; the error's `node` field names it.
        UnsupportedOperatorError: an operator has no implementation, or a shape depends on data.
    """
    program = Program(model)
    deciding = {name for node in program.nodes if node.operator in SHAPED_BY_WEIGHTS for name in node.inputs[1:]}
    shapes = {name: array.shape for name, array in weights.items() if name not in deciding} | dict(weight_shapes or {})
    try:
        facts = program.describe(
            {name: shape for name, shape in shapes.items() if name not in deciding},
            input_shapes,
            dtypes={name: getattr(torch, weights[name].dtype.name) for name in shapes if name not in deciding},
            known_weights={name: torch.from_numpy(weights[name].copy()) for name in deciding & set(weights)},
        )
    except ExecutionError as error:
        raise InvalidOnnxError(
            f"{error.message}; check the shape of the calibration samples", **{"node": "", **error.fields}
        ) from error
    integers = {
        name: tensor.numpy()
        for name, tensor in facts.known.items()
        if not tensor.is_floating_point() and tensor.numel() <= MAX_FOLDED_ELEMENTS
    }
    return Trace(dict(facts.shapes), integers)


def free_dimensions(value: onnx.ValueInfoProto) -> set[int]:
    """Axes of a graph input whose size the file leaves open."""
    dims = value.type.tensor_type.shape.dim
    return {i for i, dim in enumerate(dims) if not dim.HasField("dim_value")}


def settle_sizes(graph: Graph, sample_shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Replace computed integers by constants, let Reshape and Expand follow the batch, name every Split's sizes."""
    batches = [trace(graph, _with_batch(sample_shapes, batch)) for batch in (2, 3)]
    traces = batches + _traces_of_free_sizes(graph, sample_shapes)
    first, second = batches
    for node in graph.nodes:
        for position, name in enumerate(node.input):
            if not name or name in graph.constants or name not in first.integers:
                continue
            values = [each.integers[name] for each in traces if name in each.integers]
            if len(values) == len(traces) and all(np.array_equal(values[0], other) for other in values[1:]):
                target = values[0]
            elif position in SIZE_INPUTS.get(node.op_type, ()) and all(
                np.array_equal(first.integers[name], each.integers[name])
                for each in traces[2:]
                if name in each.integers
            ):
                settled = _following_batch(node.op_type, position, first, second, node)
                if settled is None:
                    continue
                target = settled
            else:
                continue
            constant = graph.fresh_name(f"{name}_constant")
            graph.constants[constant] = target
            node.input[position] = constant
    _name_split_sizes(graph, first)


def _traces_of_free_sizes(graph: Graph, sample_shapes: Mapping[str, tuple[int, ...]]) -> list[Trace]:
    """One more trace with every other free size doubled, where the network takes it."""
    grown = dict(_with_batch(sample_shapes, 2))
    changed = False
    for value in graph.inputs:
        shape = list(grown[value.name])
        for axis in free_dimensions(value) - {0}:
            shape[axis] *= 2
            changed = True
        grown[value.name] = tuple(shape)
    if not changed:
        return []
    try:
        return [trace(graph, grown)]
    except InvalidOnnxError:
        return []  # the sizes are not really free


def _with_batch(sample_shapes: Mapping[str, tuple[int, ...]], batch: int) -> dict[str, tuple[int, ...]]:
    return {name: (batch, *shape) for name, shape in sample_shapes.items()}


def _following_batch(operator: str, position: int, first: Trace, second: Trace, node: onnx.NodeProto) -> Array | None:
    """A constant that means the same for every batch, or None when there is none."""
    name = node.input[position]
    one, other = first.integers[name].copy(), second.integers[name]
    if one.shape != other.shape or one.ndim != 1:
        return None
    differs = np.flatnonzero(one != other)
    source = first.shapes.get(node.input[0], ())
    if operator == "Reshape":
        if list(differs) == [0] and source and source[0] == one[0]:
            one[0] = 0
        elif len(differs) == 1 and not (one == -1).any():
            one[differs[0]] = -1
        else:
            return None
        return one
    if operator == "Expand" and list(differs) == [0] and len(source) == len(one) and source[0] == one[0]:
        one[0] = 1
        return one
    if operator == "Slice" and position == 2:
        one[differs] = INT64_MAX
        return one
    return None


def _name_split_sizes(graph: Graph, traced: Trace) -> None:
    for node in graph.nodes:
        if node.op_type == "Split" and (len(node.input) < 2 or not node.input[1]):
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            name = graph.fresh_name(f"{node.output[0]}_sizes")
            graph.constants[name] = np.asarray([traced.shapes[o][axis] for o in node.output], dtype=np.int64)
            kept = [a for a in node.attribute if a.name != "num_outputs"]
            del node.attribute[:]
            node.attribute.extend(kept)
            del node.input[1:]
            node.input.append(name)
