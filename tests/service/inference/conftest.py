"""Small ONNX networks made by hand, and a store of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.store.local import LocalStore

MakeNetwork = Callable[..., bytes]


def linear_network(*, features: int = 4, classes: int = 3, seed: int = 0, mixes_rows: bool = False) -> bytes:
    """`y = x W + b`, float32; with `mixes_rows` the mean over the batch is taken away from every row."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal((features, classes)).astype(np.float32)
    bias = random.standard_normal(classes).astype(np.float32)
    nodes = [helper.make_node("Gemm", ["x", "weights", "bias"], ["h" if mixes_rows else "y"])]
    if mixes_rows:
        nodes.append(helper.make_node("ReduceMean", ["h"], ["mean"], axes=[0], keepdims=1))
        nodes.append(helper.make_node("Sub", ["h", "mean"], ["y"]))
    return _model_bytes(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])],
        {"weights": weights, "bias": bias},
    )


def lookup_network(*, entries: int = 5, width: int = 2) -> bytes:
    """`y = table[index]`, int64 to float32; an index out of range makes ONNX Runtime refuse the run."""
    table = np.arange(entries * width, dtype=np.float32).reshape(entries, width)
    return _model_bytes(
        [helper.make_node("Gather", ["table", "index"], ["y"])],
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        {"table": table},
    )


def _model_bytes(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray],
) -> bytes:
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def make_linear() -> MakeNetwork:
    """Bytes of a linear network."""
    return linear_network


@pytest.fixture
def make_lookup() -> MakeNetwork:
    """Bytes of a table lookup."""
    return lookup_network


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    """An empty artifact store."""
    opened = LocalStore(tmp_path / "store", capacity_bytes=1 << 30)
    yield opened
    opened.close()


@pytest.fixture
def put(store: LocalStore) -> Callable[[bytes], str]:
    """Puts bytes into the store and gives their digest."""

    def put_bytes(content: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        with store.staging() as folder:
            staged = folder / "artifact.onnx"
            staged.write_bytes(content)
            store.adopt(staged, digest)
        return digest

    return put_bytes
