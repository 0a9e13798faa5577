"""Normalization: fewer nodes, the same function in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from inn_core.errors import UnsupportedOperatorError
from inn_core.graph.analysis.template import Imported, make_template
from tests.inn_core.graph.tiny import Shape, feed, model_of, node, run, with_weights

IMAGE: dict[str, Shape] = {"x": (3, 4, 4)}
RELATIVE = 1e-5
STATISTICS: dict[str, list[float]] = {
    "scale": [0.5, 1.5, -1.0, 0.2, 1.0, 2.0],
    "shift": [0.1, -0.2, 0.3, 0.0, 1.0, -1.0],
    "mean": [0.3, 0.1, -0.4, 0.2, 0.0, 0.5],
    "variance": [0.5, 1.0, 1.5, 2.0, 0.7, 0.9],
}


def operators(found: Imported) -> list[str]:
    return [item.op_type for item in found.template.model.graph.node]


def unchanged(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> Imported:
    """The template at full size computes what the model computes."""
    found = make_template(model, shapes)
    ours = run(with_weights(found, found.structure.full_sizes(), found.weights), feed(shapes))
    for one, expected in zip(ours, run(model, feed(shapes)), strict=True):
        np.testing.assert_allclose(one, expected, atol=RELATIVE * np.abs(expected).max())
    return found


@pytest.mark.parametrize("bias", ["", " b"])
@pytest.mark.parametrize(
    ("operator", "weight", "shapes", "attributes"),
    [
        ("Conv", (6, 3, 1, 1), IMAGE, {}),
        ("Conv", (6, 1, 1, 1), IMAGE, {"group": 3}),
        ("ConvTranspose", (3, 6, 2, 2), IMAGE, {}),
        ("Gemm", (4, 6), {"x": (4,)}, {}),
        ("Gemm", (6, 4), {"x": (4,)}, {"transB": 1}),
    ],
)
def test_batch_normalization_is_folded(
    operator: str, weight: tuple[int, ...], shapes: dict[str, tuple[int, ...]], attributes: dict[str, Any], bias: str
) -> None:
    model = model_of(
        [
            node(operator, f"x w{bias}", "h", **attributes),
            node("BatchNormalization", "h scale shift mean variance", "y", epsilon=1e-3),
        ],
        weights={"w": weight, "b": (6,)},
        floats=STATISTICS,
        inputs=shapes,
    )
    assert operators(unchanged(model, shapes)) == [operator]


def test_batch_normalization_of_a_value_with_other_readers_is_kept_apart() -> None:
    model = model_of(
        [
            node("Conv", "x w", "h"),
            node("BatchNormalization", "h scale shift mean variance", "n"),
            node("Add", "n h", "y"),
        ],
        weights={"w": (6, 3, 1, 1)},
        floats=STATISTICS,
        inputs=IMAGE,
    )
    assert operators(unchanged(model, IMAGE)) == ["Conv", "Mul", "Add", "Add"]


def test_batch_normalization_folds_into_its_own_copy_of_a_shared_weight() -> None:
    model = model_of(
        [
            node("Conv", "x w b", "h"),
            node("BatchNormalization", "h scale shift mean variance", "n"),
            node("Conv", "x w b", "g"),
            node("Add", "n g", "y"),
        ],
        weights={"w": (6, 3, 1, 1), "b": (6,)},
        floats=STATISTICS,
        inputs=IMAGE,
    )
    found = unchanged(model, IMAGE)
    assert operators(found) == ["Conv", "Conv", "Add"]
    assert len(found.weights) == 4


def test_batch_normalization_in_training_mode_is_refused_not_folded() -> None:
    """It would normalize with the statistics of the batch at hand."""
    model = model_of(
        [
            node("Conv", "x w", "h"),
            node("BatchNormalization", "h scale shift mean variance", "y m v", "norm", training_mode=1),
        ],
        weights={"w": (6, 3, 1, 1)},
        floats=STATISTICS,
        inputs=IMAGE,
    )
    with pytest.raises(UnsupportedOperatorError, match=r"node 'norm'.*only inference"):
        make_template(model, IMAGE)


def test_constants_identities_and_dead_nodes_go() -> None:
    model = model_of(
        [
            helper.make_node("Constant", [], ["c"], "c", value=numpy_helper.from_array(np.array([2.0], np.float32))),
            helper.make_node("Constant", [], ["f"], "f", value_float=0.5),
            node("Identity", "x", "i"),
            node("Conv", "i w", "h"),
            node("Dropout", "h", "d"),
            node("Sigmoid", "d", "unread"),
            node("Mul", "d c", "m"),
            node("Add", "m f", "y"),
        ],
        weights={"w": (6, 3, 1, 1), "unused": (7,)},
        inputs=IMAGE,
    )
    found = unchanged(model, IMAGE)
    assert operators(found) == ["Conv", "Mul", "Add"]
    assert set(found.weights) == {"w", "c", "f"}


def test_what_is_computed_from_constants_is_computed_once() -> None:
    model = model_of(
        [node("Transpose", "w", "wt", perm=[1, 0]), node("Neg", "wt", "n"), node("MatMul", "x n", "y")],
        weights={"w": (5, 4)},
        inputs={"x": (4,)},
    )
    found = unchanged(model, {"x": (4,)})
    assert operators(found) == ["MatMul"]
    assert [array.shape for array in found.weights.values()] == [(4, 5)]


def test_outputs_keep_their_names_whatever_is_folded() -> None:
    model = model_of(
        [node("Conv", "x w", "h"), node("Identity", "h", "y"), node("Relu", "h", "z")],
        weights={"w": (6, 3, 1, 1)},
        inputs=IMAGE,
        outputs=("y", "z"),
    )
    found = unchanged(model, IMAGE)
    assert [value.name for value in found.template.model.graph.output] == ["y", "z"]


def test_a_size_constant_of_two_readers_becomes_two_constants() -> None:
    """Both reshapes read [0, -1, 4, 4], but their channels change apart."""
    model = model_of(
        [
            node("Conv", "x w1", "h"),
            node("Conv", "x w2", "g"),
            node("Reshape", "h shape", "hr"),
            node("Reshape", "g shape", "gr"),
            node("Conv", "hr w3", "a"),
            node("Conv", "gr w4", "b"),
            node("Add", "a b", "y"),
        ],
        weights={"w1": (6, 3, 1, 1), "w2": (6, 3, 1, 1), "w3": (5, 6, 1, 1), "w4": (5, 6, 1, 1)},
        integers={"shape": [0, 6, 4, 4]},
        inputs=IMAGE,
    )
    found = unchanged(model, IMAGE)
    constants = found.structure.constants
    assert len({entry.initializer for entry in constants}) == 2
    assert {entry.axis for entry in constants} == {(("w1",),), (("w2",),)}


def test_nodes_get_unique_names() -> None:
    model = model_of(
        [node("Conv", "x w", "h", "same"), node("Relu", "h", "r", "same"), node("Relu", "r", "y", "")],
        weights={"w": (6, 3, 1, 1)},
        inputs=IMAGE,
    )
    model.graph.node[2].name = ""
    names = [item.name for item in make_template(model, IMAGE).template.model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_the_given_model_is_left_alone() -> None:
    model = model_of(
        [node("Conv", "x w", "h"), node("BatchNormalization", "h scale shift mean variance", "y")],
        weights={"w": (6, 3, 1, 1)},
        floats=STATISTICS,
        inputs=IMAGE,
    )
    before = model.SerializeToString(deterministic=True)
    make_template(model, IMAGE)
    assert model.SerializeToString(deterministic=True) == before
