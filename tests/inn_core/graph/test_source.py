"""Reading ONNX: what is stripped, what is converted. What is refused is in tests/hostile/test_onnx.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inn_core.errors import InvalidOnnxError
from inn_core.graph.analysis.source import OLDEST_OPSET, read_onnx
from inn_core.graph.analysis.template import make_template
from inn_core.graph.node import default_opset
from tests.inn_core.graph.tiny import feed, model_of, node, run, with_weights

SECRET = "/home/somebody/project/model.py line 7"


def plain() -> onnx.ModelProto:
    return model_of(
        [node("Conv", "x w1", "h"), node("Relu", "h", "y")], weights={"w1": (6, 3, 1, 1)}, inputs={"x": (3, 4, 4)}
    )


def test_traces_of_the_exporting_machine_are_stripped() -> None:
    model = plain()
    model.doc_string = model.graph.doc_string = SECRET
    model.producer_version = SECRET
    model.metadata_props.add(key="path", value=SECRET)
    for message in (
        model.graph.node[0],
        model.graph.initializer[0],
        model.graph.input[0],
        model.graph.output[0],
    ):
        message.doc_string = SECRET
        message.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=SECRET)
    model.graph.metadata_props.add(key="path", value=SECRET)
    model.graph.node[0].attribute.append(helper.make_attribute("group", 1, doc_string=SECRET))
    assert SECRET.encode() in model.SerializeToString()
    assert SECRET.encode() not in read_onnx(model.SerializeToString()).SerializeToString()


def test_the_weights_and_the_graph_stay(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(plain().SerializeToString())
    model = read_onnx(path)
    assert [item.op_type for item in model.graph.node] == ["Conv", "Relu"]
    expected = numpy_helper.to_array(plain().graph.initializer[0])
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), expected)


def old_model(opset: int) -> onnx.ModelProto:
    """Squeeze and ReduceSum had their axes as attributes before opset 13."""
    random = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["h"], "conv"),
            helper.make_node("ReduceSum", ["h"], ["s"], "sum", axes=[3], keepdims=1),
            helper.make_node("Squeeze", ["s"], ["q"], "squeeze", axes=[3]),
            helper.make_node("Flatten", ["q"], ["f"], "flatten"),
            helper.make_node("Gemm", ["f", "w2", "b2"], ["y"], "head"),
        ],
        "old",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [
            numpy_helper.from_array(random.normal(size=(6, 3, 1, 1)).astype(np.float32), "w1"),
            numpy_helper.from_array(random.normal(size=(24, 5)).astype(np.float32), "w2"),
            numpy_helper.from_array(random.normal(size=5).astype(np.float32), "b2"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)


@pytest.mark.parametrize("opset", [9, 11])
def test_an_old_model_is_converted_and_computes_the_same(opset: int) -> None:
    model = read_onnx(old_model(opset).SerializeToString())
    assert default_opset(model) == OLDEST_OPSET
    shapes = {"x": (3, 4, 4)}
    found = make_template(model, shapes)
    (ours,) = run(with_weights(found, found.structure.full_sizes(), found.weights), feed(shapes))
    (expected,) = run(old_model(opset), feed(shapes))
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
    assert found.structure.full_sizes() == {"w1": 6}


def test_a_new_model_keeps_its_opset() -> None:
    assert default_opset(read_onnx(plain().SerializeToString())) == 18


def test_a_model_that_cannot_be_converted_says_so() -> None:
    model = old_model(9)
    model.graph.node[1].CopyFrom(helper.make_node("Upsample", ["h"], ["s"], "up"))
    with pytest.raises(InvalidOnnxError, match=r"opset 9 and cannot be converted to opset 13.*export it again"):
        read_onnx(model.SerializeToString())


def test_both_names_of_the_default_domain_count() -> None:
    model = plain()
    model.opset_import[0].domain = "ai.onnx"
    assert default_opset(model) == 18
