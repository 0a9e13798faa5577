"""ONNX files from anywhere: whatever is wrong with one, the answer is an error of ours that says what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import inn_core.graph.analysis.source
from inn_core.errors import (
    ExternalDataError,
    GraphTooLargeError,
    InnError,
    InvalidOnnxError,
    InvalidWeightsError,
    UnsupportedOperatorError,
)
from inn_core.graph.analysis.source import read_onnx
from inn_core.graph.analysis.template import make_template
from tests.inn_core.graph.random_networks import IMAGE, random_network
from tests.inn_core.graph.tiny import model_of, node

SHAPES = {"x": (3, 4, 4)}
Damage = Callable[[onnx.ModelProto], None]


def good() -> onnx.ModelProto:
    """Two convolutions, an activation between."""
    return model_of(
        [node("Conv", "x w1", "h"), node("Relu", "h", "r"), node("Conv", "r w2", "y")],
        weights={"w1": (6, 3, 1, 1), "w2": (5, 6, 1, 1)},
        inputs=SHAPES,
    )


def import_bytes(data: bytes) -> None:
    """Everything that an import does with a file before it computes."""
    make_template(read_onnx(data), SHAPES)


def test_the_good_model_is_good() -> None:
    import_bytes(good().SerializeToString())


@pytest.mark.parametrize("data", [b"", b"\x00", b"PK\x03\x04 a zip file", b"{}", b"\xff" * 1000, b"\x08\x07"])
def test_what_is_no_onnx_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidOnnxError, match="not an ONNX model"):
        read_onnx(data)


def test_a_file_that_is_cut_off_anywhere_is_refused() -> None:
    data = good().SerializeToString()
    for length in range(0, len(data), 3):
        with pytest.raises(InvalidOnnxError):
            import_bytes(data[:length])


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_give_nothing_but_our_errors(seed: int) -> None:
    """A flipped byte may go unnoticed (a weight, a name); it must never surface as a foreign error."""
    data = random_network(seed, 2).SerializeToString()
    random = np.random.default_rng(seed)
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        damaged[int(random.integers(len(data)))] = int(random.integers(256))
        try:
            make_template(read_onnx(bytes(damaged)), {"image": IMAGE})
        except InnError:
            refused += 1
    assert refused


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def external_in_a_node(model: onnx.ModelProto) -> None:
    value = numpy_helper.from_array(np.zeros(3, np.float32), "value")
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="weights.bin")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=value))


def out_of_order(model: onnx.ModelProto) -> None:
    first, second = model.graph.node[0], model.graph.node[1]
    kept = [onnx.NodeProto.FromString(item.SerializeToString()) for item in (second, first, model.graph.node[2])]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "r"


def missing_value(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nobody writes this"


def written_twice(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = "h"


def control_flow(model: onnx.ModelProto) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["h"], ["o"])], "body", [], [helper.make_tensor_value_info("o", 1, None)]
    )
    condition = numpy_helper.from_array(np.array(True), "condition")
    model.graph.initializer.append(condition)
    model.graph.node[1].CopyFrom(
        helper.make_node("If", ["condition"], ["r"], "choice", then_branch=body, else_branch=body)
    )


def sparse_initializer(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "w1")
    places = numpy_helper.from_array(np.zeros(1, np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [18]))


def sparse_attribute(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "v")
    places = numpy_helper.from_array(np.zeros(1, np.int64), "places")
    sparse = helper.make_sparse_tensor(values, places, [18])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], "sparse", sparse_value=sparse))


def function(model: onnx.ModelProto) -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Frobnicate"


def custom_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def too_few_elements(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def too_few_floats(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([0.0] * 7)


def negative_size(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -6


def unknown_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 999


def nothing_constant(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], "nothing"))
    model.graph.node[2].CopyFrom(helper.make_node("Add", ["h", "c"], ["r"]))


def no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def opset_of_the_future(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999


def bytes_in_a_name(model: onnx.ModelProto) -> None:
    model.graph.node[1].name = "replaced by the test"


def wrong_contraction(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].dims[:] = [6, 5, 1, 1]


def shape_of_a_terabyte(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([10**6, 10**6]), "large"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["large"], ["c"], "ocean"))
    model.graph.node[2].CopyFrom(helper.make_node("Mul", ["h", "c"], ["r"]))


def nan_weight(model: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(model.graph.initializer[0]).copy()
    array[2, 1] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w1"))


def infinite_weight(model: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(model.graph.initializer[1]).copy()
    array[0, 0] = -np.inf
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(array, "w2"))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (external, ExternalDataError, "initializer 'w1' keeps its data in another file.*save_as_external_data=False"),
        (external_in_a_node, ExternalDataError, "'value' keeps its data in another file"),
        (
            out_of_order,
            InvalidOnnxError,
            "breaks the ONNX specification: Nodes in a graph must be topologically sorted",
        ),
        (cycle, InvalidOnnxError, "topologically sorted"),
        (missing_value, InvalidOnnxError, "breaks the ONNX specification"),
        (written_twice, InvalidOnnxError, "breaks the ONNX specification"),
        (control_flow, UnsupportedOperatorError, "node 'choice' uses operator 'If': control flow is not supported"),
        (sparse_initializer, UnsupportedOperatorError, "'w1'.*sparse weights are not supported"),
        (sparse_attribute, UnsupportedOperatorError, "node 'sparse' uses operator 'Constant': sparse tensors"),
        (function, UnsupportedOperatorError, "'Twice'.*model-local functions are not supported"),
        (unknown_operator, InvalidOnnxError, "Frobnicate"),
        (custom_domain, UnsupportedOperatorError, r"node 'r' uses operator 'com\.example\.Relu'"),
        (too_few_elements, InvalidOnnxError, "initializer 'w1' declares 18 elements but holds 68 bytes"),
        (too_few_floats, InvalidOnnxError, "'w1'"),
        (negative_size, InvalidOnnxError, r"initializer 'w1' declares a negative size \[-6, 3, 1, 1\]"),
        (unknown_type, InvalidOnnxError, "unknown tensor element type 999"),
        (nothing_constant, InvalidOnnxError, "constant 'c' has to have one value, it gives nothing"),
        (no_opset, InvalidOnnxError, "no version of the default operator set"),
        (opset_of_the_future, InvalidOnnxError, "999"),
        (wrong_contraction, InvalidOnnxError, "node 'y'"),
        (shape_of_a_terabyte, UnsupportedOperatorError, r"node 'ocean'.*more than 268,435,456 elements"),
        (nan_weight, InvalidWeightsError, "weight 'w1' holds NaN"),
        (infinite_weight, InvalidWeightsError, "weight 'w2' holds infinity"),
    ],
)
def test_each_damage_has_its_own_error(damage: Damage, error: type[InnError], message: str) -> None:
    model = good()
    damage(model)
    with pytest.raises(error, match=message):
        import_bytes(model.SerializeToString())


def test_names_that_are_no_text_are_refused() -> None:
    model = good()
    bytes_in_a_name(model)
    data = model.SerializeToString().replace(b"replaced by the test", b"\xff" * 20)
    with pytest.raises(InvalidOnnxError, match="not valid UTF-8"):
        import_bytes(data)


@pytest.mark.parametrize(
    ("limit", "what"), [("MAX_NODES", "3 nodes"), ("MAX_INITIALIZERS", "2 initializers"), ("MAX_FILE_BYTES", "bytes")]
)
def test_graphs_over_the_limits_are_refused(
    limit: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(good().SerializeToString())
    monkeypatch.setattr(inn_core.graph.analysis.source, limit, 1)
    with pytest.raises(GraphTooLargeError, match=f"{what}, the limit is 1"):
        read_onnx(path)


def test_a_graph_without_nodes_or_outputs_is_refused() -> None:
    for part in ("node", "output"):
        model = good()
        model.graph.ClearField(part)
        with pytest.raises(InvalidOnnxError, match="no graph found"):
            read_onnx(model.SerializeToString())
