"""Linear nodes read as matrix products give what the operators give."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from inn_core.graph.linear_nodes import (
    input_rows,
    linear_nodes,
    n_positions,
    output_rows,
    weight_from_matrix,
    weight_matrix,
)
from inn_core.graph.program import Program

TOLERANCE = 1e-10  # float64 throughout

CASES = {
    "conv": ("Conv", (2, 4, 9, 8), (6, 4, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}),
    "conv1d": ("Conv", (2, 4, 9), (6, 4, 3), {"pads": [1, 1]}),
    "conv3d": ("Conv", (2, 2, 5, 4, 6), (3, 2, 2, 3, 1), {"strides": [1, 2, 1]}),
    "grouped": ("Conv", (2, 4, 7, 7), (6, 2, 3, 3), {"group": 2}),
    "depthwise": ("Conv", (2, 4, 7, 7), (8, 1, 3, 3), {"group": 4, "pads": [1] * 4}),
    "transposed": ("ConvTranspose", (2, 4, 5, 6), (4, 3, 4, 4), {"strides": [2, 2], "pads": [3, 1, 3, 2]}),
    "transposed with output padding": (
        "ConvTranspose",
        (2, 4, 5, 5),
        (4, 3, 3, 3),
        {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]},
    ),
    "transposed grouped": ("ConvTranspose", (2, 4, 5, 5), (4, 3, 2, 2), {"group": 2, "dilations": [2, 1]}),
    "gemm": ("Gemm", (5, 4), (4, 6), {}),
    "gemm transposed": ("Gemm", (5, 4), (6, 4), {"transB": 1}),
    "matmul": ("MatMul", (2, 3, 4), (4, 6), {}),
}


def program_of(operator: str, data: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, object]) -> Program:
    node = helper.make_node(operator, ["x", "w"], ["y"], "node", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None] * len(data))],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
    )
    return Program(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("choose", [False, True])
def test_rows_times_matrix_is_the_operator(case: str, choose: bool) -> None:
    operator, data_shape, weight_shape, attributes = CASES[case]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(data_shape, generator=generator, dtype=torch.float64)
    w = torch.randn(weight_shape, generator=generator, dtype=torch.float64)
    program = program_of(operator, data_shape, weight_shape, attributes)
    y = program.run({"w": w}, {"x": x})["y"]
    (entry,) = linear_nodes(program.nodes, {"w": w})
    count = n_positions(entry.node, y)
    positions = torch.randperm(count, generator=generator)[: count // 2].sort().values if choose else None
    rows = input_rows(entry.node, w.shape, x, positions)
    expected = output_rows(entry.node, y, positions)
    found = rows @ weight_matrix(entry.node, w).transpose(1, 2)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_a_weight_survives_the_way_to_a_matrix_and_back(case: str) -> None:
    operator, data_shape, weight_shape, attributes = CASES[case]
    w = torch.from_numpy(np.random.default_rng(0).normal(size=weight_shape))
    (entry,) = linear_nodes(program_of(operator, data_shape, weight_shape, attributes).nodes, {"w": w})
    assert torch.equal(weight_from_matrix(entry.node, weight_matrix(entry.node, w), w.shape), w)


def test_nodes_that_cannot_be_read_as_a_product_are_left_alone() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], "scaled", alpha=2.0),
        helper.make_node("Conv", ["x", "w"], ["b"], "automatic", auto_pad="SAME_UPPER"),
        helper.make_node("MatMul", ["x", "batched"], ["c"], "batched"),
        helper.make_node("MatMul", ["x", "y"], ["d"], "activations"),
    ]
    from inn_core.graph.node import read_nodes

    weights = {"w": torch.zeros(2, 2), "batched": torch.zeros(2, 2, 2)}
    assert linear_nodes(read_nodes(onnx.GraphProto(node=nodes)), weights) == []
