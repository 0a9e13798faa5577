"""ONNX networks made by hand."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FEATURES = 4
CLASSES = 3


def linear_network(*, seed: int = 0, hidden: int = 8, limit: int | None = None) -> bytes:
    """`y = (x A) B`, float32; with `limit`, ONNX Runtime refuses a first number that is `limit` or more."""
    random = np.random.default_rng(seed)
    weights = {
        "A": random.standard_normal((FEATURES, hidden)).astype(np.float32),
        "B": (random.standard_normal((hidden, CLASSES)) / hidden).astype(np.float32),
    }
    nodes = [helper.make_node("MatMul", ["x", "A"], ["h"]), helper.make_node("MatMul", ["h", "B"], ["r"])]
    if limit is None:
        nodes[-1].output[0] = "y"
    else:
        # Looks up row floor(x[:, 0]) of a table of zeros: what lies outside the table is refused.
        weights["table"] = np.zeros((limit, CLASSES), np.float32)
        weights["zero"] = np.array(0, np.int64)
        nodes += [
            helper.make_node("Gather", ["x", "zero"], ["first"], axis=1),
            helper.make_node("Cast", ["first"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["looked"], axis=0),
            helper.make_node("Add", ["r", "looked"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())
