"""Nested JSON numbers to arrays that fit a network's inputs, and back, with errors that point at the element.

The fast path lets numpy convert and looks only at the outcome; when something does not fit, `_convert_slowly` looks at
every value to find the first offending one. numpy would silently take booleans for numbers, and a long string among
many short ones would make it reserve memory without bounds: `holds_only_numbers` rules both out from the bytes of the
body, which is far cheaper than to look at every element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.inference.errors import (
    InputNotFiniteError,
    InputShapeError,
    InputTypeError,
    InvalidInputError,
    MissingInputError,
    UnknownInputError,
)

Array = NDArray[Any]

NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(uint16)": np.dtype(np.uint16),
    "tensor(uint32)": np.dtype(np.uint32),
    "tensor(uint64)": np.dtype(np.uint64),
    "tensor(bool)": np.dtype(np.bool_),
}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network.

    Attributes:
        name: as in the graph.
        dtype: element type.
        shape: sizes from the outside in; a string where any size of at least 1 is allowed (equal strings, equal sizes).
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    def describe(self) -> str:
        """The type as people read it, such as `float32[batch, 1, 28, 28]`."""
        return f"{self.dtype.name}[{', '.join(str(size) for size in self.shape)}]"


def holds_only_numbers(body: bytes, document: Mapping[str, Any]) -> bool:
    """Whether every value inside the lists of `document["inputs"]` is a number, null or a list.

    Each string of a JSON text, key or value, has two quotes of its own. So when the text has just the quotes of the
    members that are known, there is no string and no object inside the lists. A False may be wrong, a True never is.

    Args:
        body: the JSON text.
        document: what a parser made of it; `inputs` must be an object.
    """
    strings = len(document) + len(document["inputs"]) + sum(isinstance(value, str) for value in document.values())
    return body.count(b'"') == 2 * strings and b"true" not in body and b"false" not in body


def arrays_from_json(specs: Sequence[TensorSpec], inputs: Mapping[str, Any], *, only_numbers: bool) -> dict[str, Array]:
    """Convert and check the `inputs` member of a request.

    Args:
        specs: the network's inputs.
        inputs: name to nested lists of numbers, as a JSON parser gives them.
        only_numbers: what `holds_only_numbers` found; False is always right, but slower.

    Returns:
        One C-contiguous array per input, of its dtype, finite, all free dimensions at least 1 and consistent.

    Raises:
        InvalidInputError: one of its children, with a JSON pointer to what is wrong.
    """
    known = {spec.name for spec in specs}
    for name in inputs:
        if name not in known:
            raise UnknownInputError(
                f"the network has no input '{name[:100]}'; its inputs are {_listing(specs)}", pointer=_pointer(name)
            )
    arrays: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for spec in specs:
        if spec.name not in inputs:
            raise MissingInputError(
                f"input '{spec.name}' is missing; the network's inputs are {_listing(specs)}", pointer="/inputs"
            )
        array = _convert(spec, inputs[spec.name], only_numbers=only_numbers)
        _check_shape(spec, array.shape, sizes)
        arrays[spec.name] = array
    return arrays


def _convert(spec: TensorSpec, value: Any, *, only_numbers: bool) -> Array:
    wanted = spec.dtype
    if only_numbers and isinstance(value, list):
        try:
            array: Array = np.array(value)
        except ValueError:  # ragged, or more than 64 dimensions
            return _convert_slowly(spec, value)
        if array.size == 0 and array.dtype.kind == "f":
            return array.astype(wanted)  # the shape check words the error
        if wanted.kind == "f" and array.dtype.kind in "fiu":
            with np.errstate(over="ignore"):
                converted = np.ascontiguousarray(array, dtype=wanted)
            if np.isfinite(converted).all():
                return converted
        elif wanted.kind in "iu" and array.dtype.kind in "iu":
            bounds = np.iinfo(wanted)
            if bounds.min <= int(array.min()) and int(array.max()) <= bounds.max:
                return np.ascontiguousarray(array, dtype=wanted)
    return _convert_slowly(spec, value)


def _convert_slowly(spec: TensorSpec, value: Any) -> Array:
    """Look at every element, level by level, and raise at the first that is wrong."""
    where = _pointer(spec.name)
    if not isinstance(value, list):
        raise InputTypeError(
            f"input '{spec.name}' is {_kind(value)}; it must be nested lists for {spec.describe()}", pointer=where
        )
    shape: list[int] = []
    level: list[Any] = [value]
    while set(map(type, level)) == {list}:
        lengths = list(map(len, level))
        if len(set(lengths)) > 1:
            index = next(index for index, length in enumerate(lengths) if length != lengths[0])
            raise InputShapeError(
                f"input '{spec.name}' is ragged: a list of {lengths[index]} where the first has {lengths[0]}",
                pointer=where + _path(index, shape),
            )
        if len(shape) == len(spec.shape):
            raise InputShapeError(
                f"input '{spec.name}' has more than {len(shape)} dimensions; it must be {spec.describe()}",
                pointer=where,
            )
        shape.append(lengths[0])
        level = list(chain.from_iterable(level))
    if list in set(map(type, level)):
        index = next(
            index for index, element in enumerate(level) if isinstance(element, list) != isinstance(level[0], list)
        )
        raise InputShapeError(
            f"input '{spec.name}' is ragged: {_kind(level[index])} where the first is {_kind(level[0])}",
            pointer=where + _path(index, shape),
        )
    if level and len(shape) == len(spec.shape):
        for index, element in enumerate(level):
            reason = _objection(spec, element)
            if reason is not None:
                raise reason[0](f"input '{spec.name}' {reason[1]}", pointer=where + _path(index, shape))
    return np.array(level, dtype=spec.dtype if len(shape) == len(spec.shape) else object).reshape(shape)


def _objection(spec: TensorSpec, element: Any) -> tuple[type[InvalidInputError], str] | None:
    """Why an element may not stand in the tensor, or None."""
    kind = spec.dtype.kind
    if isinstance(element, bool) != (kind == "b") or not isinstance(element, int | float):
        return InputTypeError, f"takes {spec.dtype.name}, not {_kind(element)}"
    if kind in "iu":
        bounds = np.iinfo(spec.dtype)
        if isinstance(element, float) or not int(bounds.min) <= element <= int(bounds.max):
            return InputTypeError, f"takes integers from {int(bounds.min)} to {int(bounds.max)}, not {element!r:.40}"
    elif kind == "f":
        with np.errstate(over="ignore"):
            finite = abs(element) < 2**1023 and bool(np.isfinite(spec.dtype.type(element)))
        if not finite:
            return (
                InputNotFiniteError,
                f"holds a number that {spec.dtype.name} cannot hold (NaN, infinite or too large)",
            )
    return None


def _path(index: int, shape: Sequence[int]) -> str:
    """JSON pointer tail of the element with the given position among all elements of a level."""
    parts: list[int] = []
    for size in reversed(shape):
        index, part = divmod(index, size)
        parts.append(part)
    return "".join(f"/{part}" for part in reversed(parts))


def _check_shape(spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    expected = spec.shape
    fits = len(shape) == len(expected) and all(
        found == size if isinstance(size, int) else found > 0 for found, size in zip(shape, expected, strict=True)
    )
    if not fits:
        empty = " (no samples)" if shape and shape[0] == 0 else ""
        raise InputShapeError(
            f"input '{spec.name}' has shape {list(shape)}{empty}; it must be {spec.describe()}",
            pointer=_pointer(spec.name),
        )
    for found, size in zip(shape, expected, strict=True):
        if isinstance(size, str) and sizes.setdefault(size, found) != found:
            raise InputShapeError(
                f"input '{spec.name}' has {found} for '{size}', another input has {sizes[size]}",
                pointer=_pointer(spec.name),
            )


def _listing(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"'{spec.name}' {spec.describe()}" for spec in specs)


def _pointer(name: str) -> str:
    return "/inputs/" + name[:100].replace("~", "~0").replace("/", "~1")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else "a number"
