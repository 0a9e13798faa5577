"""From an ONNX model to a template, its weights and the structure of its sizes, checked by running sized graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch

from inn_core.arrays import Array
from inn_core.errors import (
    InnError,
    InvalidCalibrationError,
    InvalidOnnxError,
    InvalidWeightsError,
    UnsupportedOperatorError,
    first_line,
)
from inn_core.graph.analysis.groups import analyse
from inn_core.graph.analysis.normalize import (
    Graph,
    decompose_batch_normalization,
    fold_constants,
    is_usable,
    is_weight,
    make_constants_private,
    name_nodes,
    remove_dead,
    simplify,
)
from inn_core.graph.analysis.shapes import Trace, settle_sizes, trace
from inn_core.graph.node import read_nodes
from inn_core.graph.operators import OPERATORS
from inn_core.graph.structure import Structure, Template

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Imported:
    """A network as it comes in: graph without weights, weights, and how sizes flow through it."""

    template: Template
    weights: Mapping[str, Array]
    structure: Structure


def make_template(model: onnx.ModelProto, sample_shapes: Shapes, *, frozen: Sequence[tuple[str, int]] = ()) -> Imported:
    """Normalize a checked model and find its groups.

    Args:
        model: from `read_onnx`; left unchanged.
        sample_shapes: shape of one sample of every graph input, without the batch axis.
        frozen: `(tensor, axis)` that keep their size.

    Returns:
        Template, weights and structure. Every node whose sized version does not run as its rule predicts has been
        frozen, so that no plan gives a wrong network.

    Raises:
        InvalidOnnxError, UnsupportedOperatorError, InvalidWeightsError, InvalidFreezeError, InvalidCalibrationError.
    """
    graph = Graph(_copy(model))
    _check_inputs(graph, sample_shapes)
    simplify(graph)
    _check_weights(graph)
    _fold(graph)  # sizes may hang on float constants: a side of a square is written as the root of its area
    _free_batch(graph, sample_shapes)
    settle_sizes(graph, sample_shapes)
    _fold(graph)
    remove_dead(graph)
    shapes = trace(graph, _batched(sample_shapes, 2)).shapes
    decompose_batch_normalization(graph, {name: len(shape) for name, shape in shapes.items()})
    make_constants_private(graph)
    remove_dead(graph)
    name_nodes(graph)
    traced = trace(graph, _batched(sample_shapes, 1))
    weights = {name: array for name, array in graph.constants.items() if is_weight(array)}
    template = Template(
        model=graph.to_model(),
        weights={
            name: (array.shape, onnx.helper.np_dtype_to_tensor_dtype(array.dtype)) for name, array in weights.items()
        },
    )
    structure = _trusted_structure(graph, traced, weights, sample_shapes, frozen)
    return Imported(template=template, weights=weights, structure=structure)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _batched(sample_shapes: Shapes, batch: int) -> dict[str, tuple[int, ...]]:
    return {name: (batch, *shape) for name, shape in sample_shapes.items()}


def _check_inputs(graph: Graph, sample_shapes: Shapes) -> None:
    for value in graph.inputs:
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
            raise InvalidOnnxError(f"graph input '{value.name}' declares no tensor shape; export it with one")
        if value.name not in sample_shapes:
            raise InvalidCalibrationError(
                f"calibration samples for graph input '{value.name}' are missing; "
                f"found arrays: {', '.join(sorted(sample_shapes)) or 'none'}",
                input=value.name,
            )
        declared = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        found = sample_shapes[value.name]
        if len(declared) != len(found) + 1 or any(
            want is not None and want != have for want, have in zip(declared[1:], found, strict=True)
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in declared[1:])
            raise InvalidCalibrationError(
                f"calibration array '{value.name}' has samples of shape {list(found)}, the network takes [{wanted}]; "
                "the first axis of the array counts the samples",
                input=value.name,
                found=list(found),
                expected=declared[1:],
            )


def _check_weights(graph: Graph) -> None:
    for name, array in graph.constants.items():
        if is_weight(array) and not is_usable(array):
            found = "NaN" if np.isnan(array).any() else "infinity"
            raise InvalidWeightsError(name, found)


def _free_batch(graph: Graph, sample_shapes: Shapes) -> None:
    """Let a file with a fixed batch size take any; where its graph cannot, it is refused with the reason."""
    fixed = [value for value in graph.inputs if value.type.tensor_type.shape.dim[0].HasField("dim_value")]
    sizes = {value.type.tensor_type.shape.dim[0].dim_value for value in fixed}
    if not fixed:
        return
    for node in graph.nodes:
        if node.op_type == "Reshape" and node.input[1] in graph.constants:
            target = graph.constants[node.input[1]].copy()
            if target.size and int(target[0]) in sizes:
                target[0] = 0
                name = graph.fresh_name(node.input[1])
                graph.constants[name] = target
                node.input[1] = name
    for value in (*fixed, *graph.outputs):
        dims = value.type.tensor_type.shape.dim
        if dims and (not dims[0].HasField("dim_value") or dims[0].dim_value in sizes):
            dims[0].Clear()
            dims[0].dim_param = "batch"
    size = next(iter(sizes))
    try:
        shapes = trace(graph, _batched(sample_shapes, size + 1)).shapes
    except InvalidOnnxError as error:
        raise InvalidOnnxError(
            f"the model has the batch size {size} written into its graph ({error.message}); "
            "export it with a free batch axis"
        ) from error
    for value in graph.outputs:
        if not shapes[value.name] or shapes[value.name][0] != size + 1:
            raise InvalidOnnxError(
                f"output '{value.name}' does not follow the batch axis (batch {size} is written into the graph); "
                "export the model with a free batch axis"
            )


def _fold(graph: Graph) -> None:
    fold_constants(graph, lambda node, values: _evaluate(node, values, graph.opset))


def _evaluate(node: onnx.NodeProto, values: list[Array | None], opset: int) -> list[Array]:
    plain = read_nodes(onnx.GraphProto(node=[node]))[0]
    operator = OPERATORS.get(plain.operator)
    if operator is None:
        raise UnsupportedOperatorError(plain.name, plain.operator)
    try:
        tensors = [None if value is None else torch.from_numpy(np.array(value)) for value in values]
        with torch.no_grad():
            return [tensor.numpy() for tensor in operator(plain, tensors, opset) if tensor is not None]
    except InnError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError) as error:
        reason = first_line(error)
        raise InvalidOnnxError(
            f"node '{plain.name}' ({plain.operator}) cannot be computed from the constants it reads: {reason}; "
            "export the model again",
            node=plain.name,
            operator=plain.operator,
        ) from error


def _trusted_structure(
    graph: Graph,
    traced: Trace,
    weights: Mapping[str, Array],
    sample_shapes: Shapes,
    frozen: Sequence[tuple[str, int]],
) -> Structure:
    """Analyse, then shrink every group and run the shapes: a node that breaks is frozen and the analysis repeated."""
    from inn_core.graph.analysis.verify import first_disagreement

    model = graph.to_model()
    nodes = read_nodes(model.graph)
    distrusted: dict[str, str] = {}
    for _ in range(len(nodes) + 1):
        structure = analyse(
            nodes,
            shapes=traced.shapes,
            constants={name: array for name, array in graph.constants.items() if not is_weight(array)},
            weights={name: array.shape for name, array in weights.items()},
            outputs=[value.name for value in graph.outputs],
            frozen=frozen,
            distrusted=distrusted,
        )
        problem = first_disagreement(model, structure, weights, _batched(sample_shapes, 1), set(distrusted))
        if problem is None:
            return structure
        node, reason = problem
        distrusted[node] = reason
    raise AssertionError("freezing every node leaves nothing to disagree about")
