"""Calibration samples come back bit for bit; bad ones are refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from inn_core.checkpoint.calibration import checked_samples, compact, expand
from inn_core.errors import InvalidCalibrationError


def model(elem_type: int = TensorProto.FLOAT) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("image", elem_type, ["batch", 3, 4, 4])
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["y"])], "g", [value], [])
    return helper.make_model(graph)


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(20, 3, 4, 4)).astype(np.uint8)


@pytest.mark.parametrize(
    "preprocess",
    [
        lambda x: x.astype(np.float32) / 255,
        lambda x: (x.astype(np.float32) - 127) / 128,
        lambda x: (x / np.float32(255) - np.array([0.48, 0.45, 0.41], np.float32)[:, None, None]) / np.float32(0.22),
    ],
)
def test_images_from_bytes_go_back_to_bytes(preprocess) -> None:  # type: ignore[no-untyped-def]
    samples = preprocess(images())
    codes, levels = compact(samples)
    assert codes.dtype == np.uint8
    assert levels is not None
    assert np.array_equal(expand(codes, levels, samples.dtype), samples)


@given(hnp.arrays(np.float32, (9, 2, 3), elements=st.floats(-1e6, 1e6, width=32)))
def test_any_floats_come_back_bit_for_bit(samples: np.ndarray) -> None:
    codes, levels = compact(samples)
    back = expand(codes, levels, samples.dtype)
    assert back.dtype == samples.dtype
    assert np.array_equal(back, samples)


@given(hnp.arrays(np.int64, (9, 5), elements=st.integers(-(2**62), 2**62)))
def test_any_integers_come_back(samples: np.ndarray) -> None:
    codes, levels = compact(samples)
    assert np.array_equal(expand(codes, levels, samples.dtype), samples)


def test_small_integers_take_one_byte() -> None:
    codes, _ = compact(np.arange(200, dtype=np.int64).reshape(20, 10))
    assert codes.dtype == np.uint8


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "calibration array 'image' is missing"),
        ({"labels": np.zeros(20)}, "found: labels"),
        ({"image": np.full((20, 3, 4, 4), np.nan, np.float32)}, "holds NaN"),
        ({"image": np.full((20, 3, 4, 4), np.inf, np.float32)}, "holds infinity"),
        ({"image": np.zeros((20, 3, 4, 4), dtype="U3")}, "dtype <U3"),
        ({"image": np.zeros((3, 3, 4, 4), np.float32)}, "3 calibration samples are too few"),
    ],
)
def test_bad_samples_are_refused_by_name(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InvalidCalibrationError, match=message):
        checked_samples(model(), arrays)


def test_floats_for_an_integer_input_are_refused() -> None:
    with pytest.raises(InvalidCalibrationError, match="holds float32, the network reads int64"):
        checked_samples(model(TensorProto.INT64), {"image": np.zeros((20, 3, 4, 4), np.float32)})


def test_inputs_with_different_numbers_of_samples_are_refused() -> None:
    both = model()
    both.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 2]))
    with pytest.raises(InvalidCalibrationError, match="different numbers"):
        checked_samples(both, {"image": np.zeros((20, 3, 4, 4), np.float32), "more": np.zeros((9, 2), np.float32)})
