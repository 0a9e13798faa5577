"""Samples to run a network on: those of its checkpoint as the graph reads them, or seeded random ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from inn_core.arrays import Array
from inn_core.checkpoint.calibration import calibration_samples
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import InnError
from inn_core.graph.axis import axis_size

CHUNK_SAMPLES = 64

LABELS = "labels"
"""Name of the array of data that holds the classes; it is no graph input."""


def first_samples(checkpoint: Checkpoint, count: int) -> dict[str, Array]:
    """The first calibration samples, in the dtypes of the graph inputs.

    Args:
        checkpoint: keeps calibration samples.
        count: wanted; rounded up to whole batches where the graph fixes the batch. There are fewer when the
            checkpoint keeps fewer, and an incomplete last batch starts again with the first sample.
    """
    kept = min(len(array) for array in checkpoint.calibration.values())
    positions = np.arange(_whole_batches(checkpoint, min(count, kept))) % kept
    return calibration_samples(checkpoint, positions)


def random_samples(checkpoint: Checkpoint, count: int) -> dict[str, Array]:
    """Seeded samples: standard normal floats, zeros and ones for other inputs, in the shapes seen at import."""
    random = np.random.default_rng(0)
    count = _whole_batches(checkpoint, count)
    samples: dict[str, Array] = {}
    for name, dtype in input_dtypes(checkpoint).items():
        shape = (count, *(axis_size(axis, {}) for axis in checkpoint.structure.values[name][1:]))
        is_float = np.issubdtype(dtype, np.floating)
        values = random.normal(size=shape) if is_float else random.integers(0, 2, size=shape)
        samples[name] = values.astype(dtype)
    return samples


def chunks(checkpoint: Checkpoint, samples: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The samples in the batches that the graph takes, or in chunks of a size that fits memory."""
    step = fixed_batch(checkpoint) or CHUNK_SAMPLES
    for start in range(0, len(next(iter(samples.values()))), step):
        yield {name: array[start : start + step] for name, array in samples.items()}


def fixed_batch(checkpoint: Checkpoint) -> int | None:
    """Number of samples that the graph takes at a time, None when any."""
    for value in checkpoint.template.model.graph.input:
        axes = value.type.tensor_type.shape.dim
        if len(axes) and axes[0].HasField("dim_value"):
            return int(axes[0].dim_value)
    return None


def input_dtypes(checkpoint: Checkpoint) -> dict[str, np.dtype[Any]]:
    """Element types that the graph reads, by input."""
    return {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in checkpoint.template.model.graph.input
    }


def checked_arrays(
    checkpoint: Checkpoint, arrays: Mapping[str, Array], *, what: str, fewest: int, refuse: type[InnError]
) -> dict[str, Array]:
    """The samples of every graph input, in the order of the graph, in the dtypes they came in.

    Args:
        checkpoint: what takes them.
        arrays: one per graph input, samples first; others are ignored.
        what: they are for, a word of the messages.
        fewest: samples that there must be.
        refuse: class of the error.

    Raises:
        InnError: of the class `refuse`: an array is missing, of another shape than its graph input, holds no finite
            numbers, or their counts differ.
    """
    samples: dict[str, Array] = {}
    for value in checkpoint.template.model.graph.input:
        name = value.name
        shape = [int(axis.dim_value) for axis in value.type.tensor_type.shape.dim]  # 0 stands for any size
        if name not in arrays:
            raise refuse(
                f"{what} data has no array '{name}'; it has: {', '.join(sorted(arrays)) or 'nothing'}; give one array "
                "per graph input, samples first",
                input=name,
            )
        array = np.asarray(arrays[name])
        if array.ndim != len(shape) or any(
            want not in (0, found) for want, found in zip(shape[1:], array.shape[1:], strict=True)
        ):
            wanted = ", ".join(["n", *(str(size) if size else "any" for size in shape[1:])])
            raise refuse(
                f"{what} array '{name}' has shape {array.shape}; the network takes ({wanted}), samples first",
                input=name,
                shape=list(array.shape),
            )
        if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
            found = "values that are not finite" if array.dtype.kind == "f" else f"{array.dtype}, which are not numbers"
            raise refuse(
                f"{what} array '{name}' holds {found}; give finite numbers of the network's own input range",
                input=name,
            )
        samples[name] = array
    counts = {name: len(array) for name, array in samples.items()}
    if len(set(counts.values())) != 1 or min(counts.values()) < fewest:
        least = {1: "one", 2: "two"}.get(fewest, str(fewest))
        raise refuse(
            f"{what} arrays must hold the same number of samples, at least {least}; found {counts}", counts=counts
        )
    return samples


def checked_labels(labels: Array, count: int, *, refuse: type[InnError]) -> NDArray[np.int64]:
    """One integer class for each sample, as int64.

    Raises:
        InnError: of the class `refuse`: another shape, or no integers.
    """
    found = np.asarray(labels)
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise refuse(
            f"'{LABELS}' has shape {found.shape} and dtype {found.dtype}; expected one integer class for each of the "
            f"{count:,} samples",
            shape=list(found.shape),
        )
    return found.astype(np.int64)


def _whole_batches(checkpoint: Checkpoint, count: int) -> int:
    batch = fixed_batch(checkpoint) or 1
    return -(-count // batch) * batch
