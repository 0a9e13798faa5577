"""Tiny ONNX models for the tests of the graph package, and ONNX Runtime as the judge of their sized versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from inn_core.graph.analysis.template import Imported
from inn_core.graph.axis import Axis, axis_groups, kept_indices
from inn_core.graph.resized import resize_template

Array = NDArray[Any]
Shape = tuple[int, ...]
BATCH = 3


def node(operator: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node; names of inputs and outputs are separated by blanks, `-` is an absent input."""
    read = ["" if item == "-" else item for item in inputs.split()]
    return helper.make_node(operator, read, outputs.split(), name or outputs.split()[0], **attributes)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    *,
    weights: Mapping[str, Shape],
    integers: Mapping[str, ArrayLike] | None = None,
    floats: Mapping[str, ArrayLike] | None = None,
    inputs: Mapping[str, Shape],
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
) -> onnx.ModelProto:
    """A model with seeded weights, a free batch axis, and outputs of the rank that ONNX infers."""
    random = np.random.default_rng(3)
    initializers = []
    for name, shape in weights.items():
        fan_in = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 4
        initializers.append(
            numpy_helper.from_array((random.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32), name)
        )
    for name, values in (integers or {}).items():
        initializers.append(numpy_helper.from_array(np.asarray(values, dtype=np.int64), name))
    for name, numbers in (floats or {}).items():
        initializers.append(numpy_helper.from_array(np.asarray(numbers, dtype=np.float32), name))
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    for value, known in zip(model.graph.output, inferred.graph.output, strict=True):
        inferred_rank = len(known.type.tensor_type.shape.dim)
        rank = inferred_rank or 1 + len(next(iter(inputs.values())))  # ONNX infers nothing past GroupNormalization
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["batch", *[None] * (rank - 1)]))
    return model


def feed(inputs: Mapping[str, Shape], *, batch: int = BATCH, seed: int = 0) -> dict[str, Array]:
    """Seeded samples."""
    random = np.random.default_rng(seed)
    return {name: random.normal(size=(batch, *shape)).astype(np.float32) for name, shape in inputs.items()}


def run(model: onnx.ModelProto, samples: Mapping[str, Array]) -> list[Array]:
    """All outputs, by ONNX Runtime without its own rewriting of the graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[Array] = session.run(None, dict(samples))
    return results


def with_weights(found: Imported, sizes: Mapping[str, int], weights: Mapping[str, Array]) -> onnx.ModelProto:
    """The sized template with weights, ready to run."""
    model = resize_template(found.template, found.structure, sizes)
    for name in found.template.weights:
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weights[name]), name))
    return model


def sampled(found: Imported, kept: Mapping[str, NDArray[np.int64]]) -> dict[str, Array]:
    """Every weight at the kept positions of its axes."""
    full = found.structure.full_sizes()
    return {
        name: found.weights[name][np.ix_(*(kept_indices(axis, full, kept) for axis in axes))]
        if axes
        else found.weights[name]
        for name, axes in found.structure.weights.items()
    }


def letters(found: Imported) -> dict[str, str]:
    """The groups as a, b, c, … in the order of the structure."""
    return {group.name: "abcdefghij"[i] for i, group in enumerate(found.structure.groups)}


def written(axes: Sequence[Axis], names: Mapping[str, str]) -> str:
    """Axes as text: `a`, `5`, `a+b`, `2*a`; one word an axis."""
    return " ".join(
        "+".join("*".join(str(names.get(str(item), item)) for item in segment) for segment in axis) for axis in axes
    )


def weights_as_text(found: Imported) -> dict[str, str]:
    """Axes of all weights with groups as letters."""
    names = letters(found)
    return {name: written(axes, names) for name, axes in found.structure.weights.items()}


def frozen_reasons(found: Imported) -> dict[str, str]:
    """`weight:axis -> reason`."""
    return {f"{entry.tensor}:{entry.axis}": entry.reason for entry in found.structure.frozen}


def resizable(found: Imported) -> set[str]:
    """Weights that follow a group."""
    return {name for name, axes in found.structure.weights.items() if any(axis_groups(axis) for axis in axes)}
