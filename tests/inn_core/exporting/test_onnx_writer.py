"""Streamed ONNX files against what the protobuf library, the ONNX checker and ONNX Runtime say."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import ArtifactTooLargeError
from inn_core.exporting.onnx_writer import write_onnx
from inn_core.graph.onnx_bytes import varint
from inn_core.graph.resized import resize_template
from tests.inn_core.networks import SAMPLES


def model_with_everything() -> onnx.ModelProto:
    """Fields on both sides of the graph and of its initializers."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["s"], name="add"), helper.make_node("Reshape", ["s", "to"], ["y"])],
        "graph name",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])],
        initializer=[numpy_helper.from_array(np.array([-1, 6]), "to")],
        doc_string="about the graph",
        value_info=[helper.make_tensor_value_info("s", TensorProto.FLOAT, ["n", 2, 3])],
    )
    graph.metadata_props.add(key="graph key", value="graph value")
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
        producer_name="maker",
        producer_version="1.2",
        doc_string="about the model",
        model_version=3,
        domain="example",
    )
    model.metadata_props.add(key="key", value="value")
    return model


def test_the_file_is_what_the_protobuf_library_writes(real_network: Checkpoint, tmp_path: Path) -> None:
    model = resize_template(real_network.template, real_network.structure, real_network.structure.full_sizes())
    path = tmp_path / "m.onnx"
    write_onnx(model, real_network.weights, path)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for name, array in real_network.weights.items():
        whole.graph.initializer.append(numpy_helper.from_array(array, name))
    assert path.read_bytes() == whole.SerializeToString(deterministic=True)


def test_fields_around_the_graph_are_kept_in_order(tmp_path: Path) -> None:
    model = model_with_everything()
    path = tmp_path / "m.onnx"
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_onnx(model, {"w": weight}, path)
    loaded = onnx.load(path)
    assert path.read_bytes() == loaded.SerializeToString(deterministic=True)
    assert [tensor.name for tensor in loaded.graph.initializer] == ["to", "w"]
    np.testing.assert_array_equal(numpy_helper.to_array(loaded.graph.initializer[1]), weight)
    del loaded.graph.initializer[1]
    assert loaded == model


def test_the_artifact_passes_the_checker_and_runs(real_network: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_onnx(
        resize_template(real_network.template, real_network.structure, real_network.structure.full_sizes()),
        real_network.weights,
        path,
    )
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": real_network.calibration["x"]})
    assert output.shape == (SAMPLES, 5)


def test_digest_and_size_are_those_of_the_file(residual: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    file = write_onnx(residual.template.model, residual.weights, path)
    assert file.size_bytes == path.stat().st_size
    assert file.digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_equal_arguments_give_equal_bytes(residual: Checkpoint, tmp_path: Path) -> None:
    first = write_onnx(residual.template.model, residual.weights, tmp_path / "1")
    strided = {name: np.asfortranarray(array) for name, array in residual.weights.items()}
    assert write_onnx(residual.template.model, strided, tmp_path / "2") == first


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_, ">f4"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (129, 2, 1, 3)])
def test_every_dtype_and_shape_is_kept(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(int(np.prod(shape))) % 2).reshape(shape).astype(dtype)
    path = tmp_path / "m.onnx"
    write_onnx(model_with_everything(), {"w": array}, path)
    data = path.read_bytes()
    loaded = onnx.ModelProto.FromString(data)
    found = numpy_helper.to_array(loaded.graph.initializer[1])
    np.testing.assert_array_equal(found, array)
    assert found.shape == shape
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert loaded.SerializeToString(deterministic=True) == data


def test_past_two_gibibytes_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    untouched = np.zeros(2**29, dtype=np.float32)  # pages that nobody touches take no memory
    with pytest.raises(ArtifactTooLargeError, match=r"2,147,4\d\d,\d\d\d bytes; the format ends at 2,147,483,647"):
        write_onnx(model_with_everything(), {"w": untouched}, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(
    residual: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_onnx(residual.template.model, residual.weights, path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**14 - 1, 2**14, 2**31 - 1, 2**63 - 1])
def test_varints_are_those_of_protobuf(value: int) -> None:
    assert onnx.ModelProto(ir_version=value).SerializeToString() == b"\x08" + varint(value)
