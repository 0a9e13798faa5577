"""From a model to its template: inputs and calibration shapes, batch axis, what the user freezes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from inn_core.errors import InvalidCalibrationError, InvalidFreezeError, InvalidOnnxError
from inn_core.graph.analysis.template import make_template
from inn_core.graph.axis import axis_size
from tests.inn_core.graph.tiny import feed, frozen_reasons, model_of, node, run, weights_as_text, with_weights

IMAGE = {"x": (3, 4, 4)}


def two_convolutions() -> onnx.ModelProto:
    return model_of(
        [node("Conv", "x w1", "h"), node("Relu", "h", "r"), node("Conv", "r w2", "y")],
        weights={"w1": (6, 3, 1, 1), "w2": (5, 6, 1, 1)},
        inputs=IMAGE,
    )


def test_the_template_has_no_float_initializer_and_lists_the_weights() -> None:
    found = make_template(two_convolutions(), IMAGE)
    assert not found.template.model.graph.initializer
    assert found.template.weights == {
        "w1": ((6, 3, 1, 1), TensorProto.FLOAT),
        "w2": ((5, 6, 1, 1), TensorProto.FLOAT),
    }


def test_the_types_of_activations_are_known() -> None:
    structure = make_template(two_convolutions(), IMAGE).structure
    assert structure.values["x"] == (((1,),), ((3,),), ((4,),), ((4,),))
    assert structure.values["r"] == (((1,),), (("w1",),), ((4,),), ((4,),))
    assert structure.values["y"] == (((1,),), ((5,),), ((4,),), ((4,),))


def test_macs_are_those_of_one_sample() -> None:
    structure = make_template(two_convolutions(), IMAGE).structure
    full = structure.full_sizes()
    total = sum(
        term.coefficient * int(np.prod([axis_size(axis, full) for axis in term.axes])) for term in structure.macs
    )
    assert total == 16 * (6 * 3 + 5 * 6)


@pytest.mark.parametrize(("tensor", "axis"), [("w1", 0), ("w2", 1), ("r", 1)])
def test_a_weight_or_an_activation_can_be_frozen(tensor: str, axis: int) -> None:
    found = make_template(two_convolutions(), IMAGE, frozen=[(tensor, axis)])
    assert found.structure.groups == ()
    assert frozen_reasons(found)["w1:0"] == "frozen by the user"
    assert frozen_reasons(found)["w2:1"] == "frozen by the user"


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (("w9", 0), "there is no tensor 'w9' to freeze; weights are named like: w1, w2"),
        (("w1", 4), "tensor 'w1' has axes 0 to 3; axis 4 does not exist"),
        (("w1", -1), "axis -1 does not exist"),
    ],
)
def test_what_does_not_exist_cannot_be_frozen(frozen: tuple[str, int], message: str) -> None:
    with pytest.raises(InvalidFreezeError, match=message):
        make_template(two_convolutions(), IMAGE, frozen=[frozen])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "samples for graph input 'x' are missing; found arrays: none"),
        ({"image": (3, 4, 4)}, "graph input 'x' are missing; found arrays: image"),
        ({"x": (4, 4, 4)}, r"array 'x' has samples of shape \[4, 4, 4\], the network takes \[3, 4, 4\]"),
        ({"x": (3, 4)}, r"samples of shape \[3, 4\], the network takes \[3, 4, 4\]"),
        ({"x": (2, 3, 4, 4)}, r"samples of shape \[2, 3, 4, 4\], the network takes \[3, 4, 4\]"),
    ],
)
def test_samples_that_do_not_fit_are_refused_with_found_and_expected(
    shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(InvalidCalibrationError, match=message) as caught:
        make_template(two_convolutions(), shapes)
    assert caught.value.fields["input"] == "x"


def test_free_sizes_take_any_sample() -> None:
    model = two_convolutions()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    make_template(model, {"x": (3, 9, 4)})
    with pytest.raises(InvalidCalibrationError, match=r"the network takes \[3, any, 4\]"):
        make_template(model, {"x": (3, 9, 5)})


def test_an_input_without_a_shape_is_refused() -> None:
    model = two_convolutions()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(InvalidOnnxError, match="graph input 'x' declares no tensor shape"):
        make_template(model, IMAGE)


def with_fixed_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        dim = value.type.tensor_type.shape.dim[0]
        dim.ClearField("dim_param")
        dim.dim_value = batch
    return model


def test_a_fixed_batch_is_freed() -> None:
    """Also where a Reshape has it written into its target."""
    model = model_of(
        [node("Conv", "x w1", "h"), node("Reshape", "h shape", "f"), node("Gemm", "f w2", "y")],
        weights={"w1": (6, 3, 1, 1), "w2": (96, 5)},
        integers={"shape": [1, 96]},
        inputs=IMAGE,
    )
    found = make_template(with_fixed_batch(model, 1), IMAGE)
    assert weights_as_text(found) == {"w1": "a 3 1 1", "w2": "a*16 5"}
    free = with_weights(found, found.structure.full_sizes(), found.weights)
    assert free.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    samples = feed(IMAGE, batch=4)
    (ours,) = run(free, samples)
    one_by_one = [run(model, {"x": samples["x"][i : i + 1]})[0] for i in range(4)]
    np.testing.assert_allclose(ours, np.concatenate(one_by_one), atol=1e-5)


def test_a_batch_that_cannot_be_freed_is_refused_with_the_reason() -> None:
    """Samples are mixed with each other: with two of them the matrix does not fit."""
    model = model_of([node("MatMul", "mix x", "y")], weights={"mix": (2, 2)}, inputs={"x": (4,)})
    with pytest.raises(InvalidOnnxError, match=r"batch size 2 written into its graph .*node 'y'.*free batch axis"):
        make_template(with_fixed_batch(model, 2), {"x": (4,)})


def test_an_output_that_does_not_follow_the_batch_is_refused() -> None:
    model = model_of(
        [node("ReduceMean", "x axis", "m", keepdims=1), node("MatMul", "m w", "y")],
        weights={"w": (4, 5)},
        integers={"axis": [0]},
        inputs={"x": (4,)},
    )
    with pytest.raises(InvalidOnnxError, match="output 'y' does not follow the batch axis"):
        make_template(with_fixed_batch(model, 1), {"x": (4,)})


def test_two_inputs_that_meet_are_both_kept_at_their_size() -> None:
    model = model_of(
        [
            node("Gemm", "x w1", "h"),
            node("Gemm", "z w2", "g"),
            node("Mul", "h g", "m"),
            node("Concat", "m x", "j", axis=1),
            node("Gemm", "j w3", "y"),
        ],
        weights={"w1": (4, 6), "w2": (3, 6), "w3": (10, 5)},
        inputs={"x": (4,), "z": (3,)},
    )
    found = make_template(model, {"x": (4,), "z": (3,)})
    assert weights_as_text(found) == {"w1": "4 a", "w2": "3 a", "w3": "a+4 5"}
