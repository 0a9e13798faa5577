"""Small ONNX models and ONNX Runtime as the oracle for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

Array = NDArray[Any]
SingleNode = Callable[..., tuple[onnx.ModelProto, dict[str, Array]]]
RunOnnx = Callable[[onnx.ModelProto, Mapping[str, Array]], list[Array]]


@pytest.fixture(scope="session")
def single_node() -> SingleNode:
    """Builds a model of one node whose inputs are all graph inputs, and the arrays to feed it."""

    def build(
        operator: str, arrays: Sequence[Array | None], *, outputs: int = 1, opset: int = 17, **attributes: Any
    ) -> tuple[onnx.ModelProto, dict[str, Array]]:
        names = [f"input{place}" if array is not None else "" for place, array in enumerate(arrays)]
        feed = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
        results = [f"output{place}" for place in range(outputs)]
        graph = helper.make_graph(
            [helper.make_node(operator, names, results, **attributes)],
            "one",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in feed.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in results],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), feed

    return build


@pytest.fixture(scope="session")
def run_onnx() -> RunOnnx:
    """Runs a model with ONNX Runtime on the CPU."""
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4

    def run(model: onnx.ModelProto, feed: Mapping[str, Array]) -> list[Array]:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results: list[Array] = session.run(None, dict(feed))
        return results

    return run


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded random numbers."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def small_network() -> onnx.ModelProto:
    """A network with a residual branch, a gate, a depthwise convolution, a concat and a computed Reshape target.

    Weights are graph initializers (seeded); the batch size is free; opset 17.
    """
    rng = np.random.default_rng(7)

    def tensor(name: str, *shape: int) -> TensorProto:
        return onnx.numpy_helper.from_array((rng.standard_normal(shape) * 0.3).astype(np.float32), name)

    def integer(name: str, values: Sequence[int] | int) -> TensorProto:
        return onnx.numpy_helper.from_array(np.asarray(values, dtype=np.int64), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "depthwise", auto_pad="SAME_UPPER", group=8),
        helper.make_node("ReduceMean", ["c2"], ["m2"], axes=[2, 3], keepdims=1),
        helper.make_node("Conv", ["m2", "w3", "b3"], ["g2"]),
        helper.make_node("Sigmoid", ["g2"], ["s2"]),
        helper.make_node("Mul", ["c2", "s2"], ["x2"]),
        helper.make_node("Add", ["x2", "r1"], ["a2"]),
        helper.make_node("MaxPool", ["a2"], ["p3"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
        helper.make_node("AveragePool", ["a2"], ["q3"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["p3", "q3"], ["k3"], axis=1),
        helper.make_node("Shape", ["k3"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axis0"], ["batch1"]),
        helper.make_node("Concat", ["batch1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["k3", "target"], ["f3"]),
        helper.make_node("Gemm", ["f3", "w4", "b4"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [
            tensor("w1", 8, 3, 3, 3),
            tensor("b1", 8),
            tensor("w2", 8, 1, 3, 3),
            tensor("w3", 8, 8, 1, 1),
            tensor("b3", 8),
            tensor("w4", 5, 256),
            tensor("b4", 5),
            integer("zero", 0),
            integer("axis0", [0]),
            integer("rest", [-1]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
