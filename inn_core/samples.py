"""Samples to run a network on: those of its checkpoint as the graph reads them, or seeded random ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import helper

from inn_core.calibration import calibration_samples
from inn_core.graph.axis import axis_size
from inn_core.network import Array, Checkpoint

CHUNK_SAMPLES = 64


def first_samples(network: Checkpoint, count: int) -> dict[str, Array]:
    """The first calibration samples, in the dtypes of the graph inputs.

    Args:
        network: keeps calibration samples.
        count: wanted; rounded up to whole batches where the graph fixes the batch. There are fewer when the
            checkpoint keeps fewer, and an incomplete last batch starts again with the first sample.
    """
    kept = min(len(array) for array in network.calibration.values())
    positions = np.arange(_whole_batches(network, min(count, kept))) % kept
    return calibration_samples(network, positions)


def random_samples(network: Checkpoint, count: int) -> dict[str, Array]:
    """Seeded samples: standard normal floats, zeros and ones for other inputs, in the shapes seen at import."""
    random = np.random.default_rng(0)
    count = _whole_batches(network, count)
    samples: dict[str, Array] = {}
    for name, dtype in _dtypes(network).items():
        shape = (count, *(axis_size(axis, {}) for axis in network.structure.values[name][1:]))
        is_float = np.issubdtype(dtype, np.floating)
        values = random.normal(size=shape) if is_float else random.integers(0, 2, size=shape)
        samples[name] = values.astype(dtype)
    return samples


def chunks(network: Checkpoint, samples: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The samples in the batches that the graph takes, or in chunks of a size that fits memory."""
    step = fixed_batch(network) or CHUNK_SAMPLES
    for start in range(0, len(next(iter(samples.values()))), step):
        yield {name: array[start : start + step] for name, array in samples.items()}


def fixed_batch(network: Checkpoint) -> int | None:
    """Number of samples that the graph takes at a time, None when any."""
    for value in network.template.model.graph.input:
        axes = value.type.tensor_type.shape.dim
        if len(axes) and axes[0].HasField("dim_value"):
            return int(axes[0].dim_value)
    return None


def _whole_batches(network: Checkpoint, count: int) -> int:
    batch = fixed_batch(network) or 1
    return -(-count // batch) * batch


def _dtypes(network: Checkpoint) -> dict[str, np.dtype]:
    return {
        value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in network.template.model.graph.input
    }
