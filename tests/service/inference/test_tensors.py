"""JSON values to input arrays: what fits comes out as numpy has it, what does not is named with its place."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.inference.errors import (
    InputNotFiniteError,
    InputShapeError,
    InputTypeError,
    InvalidInputError,
    MissingInputError,
    UnknownInputError,
)
from service.inference.tensors import TensorSpec, arrays_from_json, holds_only_numbers

IMAGE = TensorSpec("x", np.dtype(np.float32), ("batch", 2, 2))
BYTES = TensorSpec("x", np.dtype(np.uint8), ("batch", 2))
HALF = TensorSpec("x", np.dtype(np.float16), ("batch", 2))
MASK = TensorSpec("x", np.dtype(np.bool_), ("batch", 2))


def convert(specs: list[TensorSpec], inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    document = {"model": "m", "inputs": inputs}
    body = json.dumps(document).encode()  # unlike orjson, writes NaN and Infinity
    return arrays_from_json(specs, inputs, only_numbers=holds_only_numbers(body, document))


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (IMAGE, [[[1, 2], [3, 4]], [[0.5, -1e-3], [1e30, 0]]]),
        (BYTES, [[0, 255]]),
        (HALF, [[65504, -0.1]]),
        (MASK, [[True, False]]),
        (TensorSpec("x", np.dtype(np.uint64), ("n", 2)), [[2**64 - 1, 0]]),
        (TensorSpec("x", np.dtype(np.int64), ("n", 2)), [[2**63 - 1, -(2**63)]]),
    ],
)
def test_values_that_fit_become_what_numpy_makes_of_them(spec: TensorSpec, value: Any) -> None:
    array = convert([spec], {"x": value})["x"]
    assert array.dtype == spec.dtype
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, np.array(value, dtype=spec.dtype))


@pytest.mark.parametrize(
    ("spec", "value", "error", "pointer"),
    [
        (IMAGE, "pixels", InputTypeError, "/inputs/x"),
        (IMAGE, None, InputTypeError, "/inputs/x"),
        (IMAGE, 1.0, InputTypeError, "/inputs/x"),
        (IMAGE, {"data": []}, InputTypeError, "/inputs/x"),
        (IMAGE, [[1, 2], [3, 4]], InputShapeError, "/inputs/x"),
        (IMAGE, [[[[1, 2], [3, 4]]]], InputShapeError, "/inputs/x"),
        (IMAGE, [[[1, 2, 3], [3, 4, 5]]], InputShapeError, "/inputs/x"),
        (IMAGE, [], InputShapeError, "/inputs/x"),
        (IMAGE, [[]], InputShapeError, "/inputs/x"),
        (IMAGE, [[[1, 2], [3]]], InputShapeError, "/inputs/x/0/1"),
        (IMAGE, [[[1, 2], [3, 4]], [[1, 2]]], InputShapeError, "/inputs/x/1"),
        (IMAGE, [[[1, 2], [3, [4]]]], InputShapeError, "/inputs/x/0/1/1"),
        (IMAGE, [[[1, 2], 3]], InputShapeError, "/inputs/x/0/1"),
        (IMAGE, [[[1, 2], [3, "4"]]], InputTypeError, "/inputs/x/0/1/1"),
        (IMAGE, [[[1, None], [3, 4]]], InputTypeError, "/inputs/x/0/0/1"),
        (IMAGE, [[[1, True], [3, 4]]], InputTypeError, "/inputs/x/0/0/1"),
        (IMAGE, [[[1, {}], [3, 4]]], InputTypeError, "/inputs/x/0/0/1"),
        (IMAGE, [[[1, 2], [float("nan"), 4]]], InputNotFiniteError, "/inputs/x/0/1/0"),
        (IMAGE, [[[1, 2], [3, float("-inf")]]], InputNotFiniteError, "/inputs/x/0/1/1"),
        (IMAGE, [[[1e39, 2], [3, 4]]], InputNotFiniteError, "/inputs/x/0/0/0"),
        (IMAGE, [[[10**400, 2], [3, 4]]], InputNotFiniteError, "/inputs/x/0/0/0"),
        (HALF, [[1, 65520]], InputNotFiniteError, "/inputs/x/0/1"),
        (BYTES, [[1, 2.0]], InputTypeError, "/inputs/x/0/1"),
        (BYTES, [[1, 256]], InputTypeError, "/inputs/x/0/1"),
        (BYTES, [[-1, 2]], InputTypeError, "/inputs/x/0/0"),
        (BYTES, [[True, 2]], InputTypeError, "/inputs/x/0/0"),
        (BYTES, [[2**80, 2]], InputTypeError, "/inputs/x/0/0"),
        (MASK, [[1, 0]], InputTypeError, "/inputs/x/0/0"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(
    spec: TensorSpec, value: Any, error: type[InvalidInputError], pointer: str
) -> None:
    with pytest.raises(error) as caught:
        convert([spec], {"x": value})
    (entry,) = caught.value.fields["errors"]
    assert entry["pointer"] == pointer
    assert "'x'" in entry["detail"]
    assert len(entry["detail"]) < 400


def test_unknown_and_missing_inputs_list_what_the_network_takes() -> None:
    with pytest.raises(UnknownInputError, match=r"'y'.*'x' float32\[batch, 2, 2\]"):
        convert([IMAGE], {"x": [[[1, 2], [3, 4]]], "y": [1]})
    with pytest.raises(MissingInputError, match=r"'x' float32\[batch, 2, 2\]"):
        convert([IMAGE], {})


def test_inputs_must_agree_on_the_batch() -> None:
    other = TensorSpec("z", np.dtype(np.float32), ("batch",))
    with pytest.raises(InputShapeError, match="'batch'"):
        convert([IMAGE, other], {"x": [[[1, 2], [3, 4]]], "z": [1, 2]})
    assert convert([IMAGE, other], {"x": [[[1, 2], [3, 4]]], "z": [1]})["z"].shape == (1,)


def test_a_list_nested_deeper_than_numpy_can_hold_is_a_shape_error() -> None:
    value: Any = 1.0
    for _ in range(100):
        value = [value]
    with pytest.raises(InputShapeError):
        convert([IMAGE], {"x": value})


def test_a_long_string_among_many_short_ones_reserves_no_memory() -> None:
    # numpy would make every element as long as the longest: 400 GB here
    with pytest.raises(InputTypeError):
        convert([TensorSpec("x", np.dtype(np.float32), ("n",))], {"x": ["a" * 1_000_000] + ["b"] * 100_000})


scalars = st.one_of(
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.text(max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
nested = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=12)


@given(value=nested, dtype=st.sampled_from(["float32", "int8", "bool", "float64"]))
def test_any_json_value_is_either_converted_exactly_or_refused_as_input(value: Any, dtype: str) -> None:
    spec = TensorSpec("x", np.dtype(dtype), ("batch", 2))
    document = {"inputs": {"x": value}}
    body = json.dumps(document).encode()
    try:
        fast = arrays_from_json([spec], document["inputs"], only_numbers=holds_only_numbers(body, document))["x"]
    except InvalidInputError as error:
        with pytest.raises(type(error)):
            arrays_from_json([spec], document["inputs"], only_numbers=False)
        return
    slow = arrays_from_json([spec], document["inputs"], only_numbers=False)["x"]
    np.testing.assert_array_equal(fast, slow)
    flat = [element for row in value for element in row]
    assert all(isinstance(element, bool) == (dtype == "bool") for element in flat)
    np.testing.assert_array_equal(fast, np.array(value, dtype=dtype))
