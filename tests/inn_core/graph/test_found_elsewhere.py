"""What networks from elsewhere taught: each test is the smallest graph that once broke the import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from inn_core.errors import InvalidWeightsError
from inn_core.graph.analysis.template import Imported, make_template
from inn_core.graph.axis import axis_groups, kept_indices
from inn_core.graph.resized import resize_template

FloatArray = NDArray[np.float32]
TOLERANCE = 1e-6  # float32, a handful of additions


def model_of(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    input_shape: Sequence[int | str],
    output_rank: int,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *[None] * (output_rank - 1)])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: FloatArray) -> FloatArray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: FloatArray = session.run(None, {"x": x})[0]
    return result


def sized(network: Imported, sizes: Mapping[str, int]) -> onnx.ModelProto:
    """The network with the first channels of every group."""
    kept = {name: np.arange(size) for name, size in sizes.items()}
    model = resize_template(network.template, network.structure, sizes)
    full = network.structure.full_sizes()
    for name, axes in network.structure.weights.items():
        weight = np.asarray(network.weights[name])
        taken = weight[np.ix_(*(kept_indices(axis, full, kept) for axis in axes))] if axes else weight
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(taken), name))
    return model


def random_weights(*shape: int) -> FloatArray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def test_scales_of_a_resize_are_not_channels() -> None:
    """A text detector: `scales` is a float initializer with one entry an axis, not a weight with 4 channels."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], mode="nearest"),
        helper.make_node("Conv", ["b", "w2"], ["y"]),
    ]
    scales = np.array([1, 1, 2, 2], dtype=np.float32)
    constants = {"w1": random_weights(6, 3, 1, 1), "w2": random_weights(2, 6, 1, 1), "scales": scales}
    network = make_template(model_of(nodes, constants, ["batch", 3, 4, 4], 4), {"x": (3, 4, 4)})
    assert [(group.name, group.size) for group in network.structure.groups] == [("w1", 6)]
    assert not any(axis_groups(axis) for axis in network.structure.weights["scales"])
    x = random_weights(2, 3, 4, 4)
    found = run(sized(network, {"w1": 2}), x)
    first = np.einsum("nchw,oc->nohw", x, constants["w1"][:2, :, 0, 0])
    expected = np.einsum("nchw,oc->nohw", first, constants["w2"][:, :2, 0, 0]).repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max())


def test_sizes_computed_from_float_constants_are_constants() -> None:
    """A vision transformer: the side of its square of positions is written as the root of their number."""
    nodes = [
        helper.make_node("Pow", ["area", "half"], ["side"]),
        helper.make_node("Cast", ["side"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Concat", ["front", "whole", "whole"], ["target"], axis=0),
        helper.make_node("Reshape", ["positions", "target"], ["square"]),
        helper.make_node("Add", ["x", "square"], ["y"]),
    ]
    constants = {
        "area": np.array([16], dtype=np.float32),
        "half": np.array([0.5], dtype=np.float32),
        "front": np.array([1, 3]),
        "positions": random_weights(1, 3, 16),
    }
    network = make_template(model_of(nodes, constants, ["batch", 3, 4, 4], 4), {"x": (3, 4, 4)})
    x = random_weights(2, 3, 4, 4)
    expected = x + constants["positions"].reshape(1, 3, 4, 4)
    np.testing.assert_allclose(run(sized(network, network.structure.full_sizes()), x), expected, atol=TOLERANCE)


def test_a_maximum_may_start_at_minus_infinity() -> None:
    """A file-type classifier traced from JAX: reductions start at a constant of minus infinity."""
    nodes = [helper.make_node("Max", ["x", "lowest"], ["y"])]
    constants = {"lowest": np.array(-np.inf, dtype=np.float32)}
    network = make_template(model_of(nodes, constants, ["batch", 3], 2), {"x": (3,)})
    x = random_weights(2, 3)
    np.testing.assert_array_equal(run(sized(network, {}), x), x)


@pytest.mark.parametrize("value", [np.array(np.nan), np.array([np.inf]), np.array([1.0, -np.inf, 2.0])])
def test_other_values_that_are_not_finite_are_refused(value: np.ndarray) -> None:
    nodes = [helper.make_node("Max", ["x", "lowest"], ["y"])]
    model = model_of(nodes, {"lowest": value.astype(np.float32)}, ["batch", 3], 2)
    with pytest.raises(InvalidWeightsError, match="'lowest'"):
        make_template(model, {"x": (3,)})
