"""Shapes learned by running on no data: computed sizes become constants, and follow the batch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from inn_core.errors import InvalidOnnxError
from inn_core.graph.analysis.normalize import Graph
from inn_core.graph.analysis.shapes import free_dimensions, trace, trace_model
from inn_core.graph.analysis.template import make_template
from tests.inn_core.graph.tiny import feed, model_of, node, run, weights_as_text, with_weights

IMAGE = {"x": (3, 4, 4)}


def flattened_by_a_chain() -> onnx.ModelProto:
    """What exporters write for `h.view(h.size(0), -1)`: Shape, Gather, Concat, Reshape."""
    return model_of(
        [
            node("Conv", "x w1", "h"),
            node("Shape", "h", "s"),
            node("Gather", "s zero", "b", axis=0),
            node("Unsqueeze", "b axis", "b1"),
            node("Concat", "b1 rest", "target", axis=0),
            node("Reshape", "h target", "f"),
            node("Gemm", "f w2", "y"),
        ],
        weights={"w1": (6, 3, 1, 1), "w2": (96, 5)},
        integers={"zero": 0, "axis": [0], "rest": [-1]},
        inputs=IMAGE,
    )


def test_a_chain_that_computes_a_reshape_becomes_a_constant_that_follows_the_group() -> None:
    found = make_template(flattened_by_a_chain(), IMAGE)
    assert weights_as_text(found) == {"w1": "a 3 1 1", "w2": "a*16 5"}
    assert [item.op_type for item in found.template.model.graph.node] == ["Conv", "Reshape", "Gemm"]
    (ours,) = run(with_weights(found, found.structure.full_sizes(), found.weights), feed(IMAGE, batch=5))
    (expected,) = run(flattened_by_a_chain(), feed(IMAGE, batch=5))
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


def test_a_slice_up_to_a_computed_half_is_settled() -> None:
    """`h[:, : h.size(1) // 2]`, written with Shape, Gather and Div."""
    model = model_of(
        [
            node("Conv", "x w1", "h"),
            node("Shape", "h", "s"),
            node("Gather", "s one", "c", axis=0),
            node("Div", "c two", "half"),
            node("Unsqueeze", "half zero", "end"),
            node("Slice", "h zero end one1", "m"),
            node("Conv", "m w2", "y"),
        ],
        weights={"w1": (6, 3, 1, 1), "w2": (5, 3, 1, 1)},
        integers={"zero": [0], "one": 1, "one1": [1], "two": 2},
        inputs=IMAGE,
    )
    found = make_template(model, IMAGE)
    assert weights_as_text(found) == {"w1": "a+b 3 1 1", "w2": "5 a 1 1"}
    assert "Shape" not in {item.op_type for item in found.template.model.graph.node}


def test_a_split_without_sizes_gets_them_named() -> None:
    model = model_of(
        [
            node("Conv", "x w1", "h"),
            node("Split", "h", "p q", axis=1, num_outputs=2),
            node("Concat", "q p", "m", axis=1),
            node("Conv", "m w2", "y"),
        ],
        weights={"w1": (6, 3, 1, 1), "w2": (5, 6, 1, 1)},
        inputs=IMAGE,
    )
    found = make_template(model, IMAGE)
    assert weights_as_text(found) == {"w1": "a+b 3 1 1", "w2": "5 b+a 1 1"}
    (split,) = (item for item in found.template.model.graph.node if item.op_type == "Split")
    assert len(split.input) == 2
    assert "num_outputs" not in {attribute.name for attribute in split.attribute}


def test_traced_shapes_are_those_of_onnx_runtime() -> None:
    model = flattened_by_a_chain()
    found = trace(Graph(model), {"x": (7, 3, 4, 4)})
    samples = feed(IMAGE, batch=7)
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in ("h", "target", "f"))
    results = dict(zip(("y", "h", "target", "f"), run(model, samples), strict=True))
    assert {name: found.shapes[name] for name in results} == {name: array.shape for name, array in results.items()}
    np.testing.assert_array_equal(found.integers["target"], results["target"])
    assert "h" not in found.integers


def test_a_node_that_cannot_take_its_shapes_is_named() -> None:
    model = flattened_by_a_chain()
    graph = Graph(model)
    weights = {name: array for name, array in graph.constants.items() if array.dtype == np.float32}
    with pytest.raises(InvalidOnnxError, match="node 'y'") as caught:
        trace_model(graph.to_model(), weights, {"x": (1, 3, 4, 4)}, weight_shapes={"w1": (5, 3, 1, 1)})
    assert caught.value.fields["node"] == "y"


def test_free_dimensions_are_those_without_a_number() -> None:
    value = helper.make_tensor_value_info("x", 1, ["batch", 3, "height", None])
    assert free_dimensions(value) == {0, 2, 3}


def test_a_size_that_follows_the_image_stays_computed_and_the_network_takes_other_images() -> None:
    """An up-sampling to the size of another value, with free height and width."""
    model = model_of(
        [
            node("Conv", "x w1", "h"),
            node("MaxPool", "h", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Shape", "h", "s"),
            node("Resize", "p - - s", "u", mode="nearest"),
            node("Add", "u h", "m"),
            node("Conv", "m w2", "y"),
        ],
        weights={"w1": (6, 3, 1, 1), "w2": (5, 6, 1, 1)},
        inputs=IMAGE,
    )
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    found = make_template(model, IMAGE)
    larger = {"x": (3, 8, 6)}
    (ours,) = run(with_weights(found, found.structure.full_sizes(), found.weights), feed(larger))
    (expected,) = run(model, feed(larger))
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
