"""Calibration samples: checked on the way in, kept in the smallest dtype that gives them back, bit for bit.

Images mostly come from bytes: then a channel has at most 256 different values, whatever the preprocessing did, and one
byte a value plus a table of levels says the same as four.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import InvalidCalibrationError

LEVELS = 256
MIN_SAMPLES = 8


def checked_samples(model: onnx.ModelProto, arrays: Mapping[str, Array] | Array) -> dict[str, Array]:
    """The samples of every graph input, in the dtype the graph reads.

    Args:
        model: names its inputs; those that are initializers do not count.
        arrays: by input name, samples first; arrays of other names are ignored. One array where there is one input.

    Raises:
        InvalidCalibrationError: an array is missing, of another kind of dtype, not finite, or of another length.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    if isinstance(arrays, np.ndarray):
        if len(inputs) != 1:
            raise InvalidCalibrationError(
                f"one array was given, the network reads {len(inputs)} inputs: "
                f"{', '.join(value.name for value in inputs)}; give a dict of arrays by these names"
            )
        arrays = {inputs[0].name: arrays}
    samples: dict[str, Array] = {}
    for value in inputs:
        if value.name not in arrays:
            raise InvalidCalibrationError(
                f"calibration array '{value.name}' is missing; found: {', '.join(sorted(arrays)) or 'none'}; "
                "give one array per graph input, samples first",
                input=value.name,
            )
        samples[value.name] = _checked(value, arrays[value.name])
    lengths = {name: len(array) for name, array in samples.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidCalibrationError(f"calibration arrays have different numbers of samples: {lengths}")
    count = next(iter(lengths.values()), 0)
    if count < MIN_SAMPLES:
        raise InvalidCalibrationError(
            f"{count} calibration samples are too few; give at least {MIN_SAMPLES}, better 1,000"
        )
    return samples


def _checked(value: onnx.ValueInfoProto, array: Array) -> Array:
    wanted = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    array = np.asarray(array)
    if array.ndim < 1 or array.dtype.kind not in "buif":
        raise InvalidCalibrationError(
            f"calibration array '{value.name}' has dtype {array.dtype} and shape {list(array.shape)}; "
            f"the network reads numbers as {wanted}, samples first",
            input=value.name,
        )
    if array.dtype.kind == "f" and wanted.kind != "f":
        raise InvalidCalibrationError(
            f"calibration array '{value.name}' holds {array.dtype}, the network reads {wanted}", input=value.name
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        found = "NaN" if np.isnan(array).any() else "infinity"
        raise InvalidCalibrationError(
            f"calibration array '{value.name}' holds {found}; give finite samples", input=value.name
        )
    return array.astype(wanted, copy=False)


def compact(samples: Array) -> tuple[Array, NDArray[np.float32] | None]:
    """Samples in the smallest dtype that gives them back.

    Args:
        samples: shape `(samples, channels, ...)` or `(samples, features)`, any numeric dtype.

    Returns:
        Codes of dtype uint8 with levels of shape `(1 or channels, 256)`, so that `expand` gives the very same array;
        or a smaller dtype of the same values, or the array itself, and None.
    """
    if samples.dtype.kind == "f":
        for per_channel in (False, True):
            coded = _code(samples, per_channel=per_channel)
            if coded is not None:
                return coded
        half = samples.astype(np.float16)
        return (half, None) if np.array_equal(half.astype(samples.dtype), samples) else (samples, None)
    for dtype in (np.uint8, np.int8, np.uint16, np.int16, np.int32):
        if np.dtype(dtype).itemsize < samples.dtype.itemsize and np.array_equal(
            samples.astype(dtype).astype(samples.dtype), samples
        ):
            return samples.astype(dtype), None
    return samples, None


def _code(samples: Array, *, per_channel: bool) -> tuple[Array, NDArray[np.float32]] | None:
    if samples.dtype != np.float32 or (per_channel and samples.ndim < 3):
        return None
    parts = [samples[:, i] for i in range(samples.shape[1])] if per_channel else [samples]
    if len(parts) > LEVELS:
        return None
    levels = np.zeros((len(parts), LEVELS), dtype=np.float32)
    codes = np.empty(samples.shape, dtype=np.uint8)
    for i, part in enumerate(parts):
        probe = np.unique(part.reshape(-1)[:65_536])
        found = probe if len(probe) > LEVELS else np.unique(part)
        if len(found) > LEVELS:
            return None
        levels[i, : len(found)] = found
        target = codes[:, i] if per_channel else codes
        target[...] = np.searchsorted(found, part)
    return codes, levels


def expand(codes: Array, levels: Array | None, dtype: np.dtype) -> Array:
    """Inverse of `compact`, in the dtype the graph reads."""
    if levels is None:
        return codes.astype(dtype)
    if len(levels) == 1:
        return np.asarray(levels[0][codes], dtype=dtype)
    return np.stack([levels[i][codes[:, i]] for i in range(codes.shape[1])], axis=1).astype(dtype, copy=False)


def calibration_samples(checkpoint: Checkpoint, positions: NDArray[np.int64] | slice = slice(None)) -> dict[str, Array]:
    """Calibration samples of a checkpoint as the graph reads them; empty when it keeps none."""
    dtypes = {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in checkpoint.template.model.graph.input
    }
    return {
        name: expand(np.asarray(codes[positions]), checkpoint.levels.get(name), dtypes[name])
        for name, codes in checkpoint.calibration.items()
    }
