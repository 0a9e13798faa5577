"""The tensors of two sizes of one checkpoint side by side, channel by channel, for `benchmarks.delta`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.axis import axis_groups, kept_indices

Array = NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """Two artifacts of one checkpoint.

    Attributes:
        shared: numbers of the second that the first has a counterpart of, as a share of all.
        equal: of these, the share that is the same in both, bit by bit.
        distance: of these, root mean square difference over root mean square.
        missing_bytes: of the numbers without a counterpart, as stored.
        changed_bytes: of those and of those that differ.
        float16_bytes: of all numbers at half precision.
        shuffled: all numbers, the first bytes of all, then the second, …, which compresses better.
        float16: all numbers at half precision, shuffled in the same way.
        difference: bits of the shared numbers exclusive-or their counterparts, shuffled, then the missing ones.
    """

    shared: float
    equal: float
    distance: float
    missing_bytes: int
    changed_bytes: int
    float16_bytes: int
    shuffled: bytes
    float16: bytes
    difference: bytes


def compare(
    checkpoint: Checkpoint, before: Mapping[str, int], after: Mapping[str, int], old: Path, new: Path
) -> Comparison:
    """Compare two artifacts of a network.

    Args:
        checkpoint: the checkpoint that both were made from.
        before, after: group sizes of the two.
        old, new: their files.
    """
    first, second = _weights(old), _weights(new)
    # Positions of the channels that both keep, in either artifact: size m keeps `sort(order[:m])`.
    common = {name: np.sort(order[: min(before[name], after[name])]) for name, order in checkpoint.orders.items()}
    places = [
        {
            name: np.searchsorted(np.sort(order[: sizes[name]]), common[name])
            for name, order in checkpoint.orders.items()
        }
        for sizes in (before, after)
    ]
    shared, counterparts, missing, everything = [], [], [], []
    for name, axes in checkpoint.structure.weights.items():
        kept, is_shared = first[name], np.ones(second[name].shape, dtype=bool)
        for position, axis in enumerate(axes):
            if not axis_groups(axis):
                continue
            kept = np.take(kept, kept_indices(axis, before, places[0]), axis=position)
            outside = np.ones(second[name].shape[position], dtype=bool)
            outside[kept_indices(axis, after, places[1])] = False
            is_shared &= ~outside.reshape([-1 if other == position else 1 for other in range(len(axes))])
        everything.append(second[name].ravel())
        shared.append(second[name][is_shared])
        counterparts.append(kept.ravel())
        missing.append(second[name][~is_shared])
    numbers, ours, theirs, rest = map(np.concatenate, (everything, shared, counterparts, missing))
    changed = int((_bits(ours) != _bits(theirs)).sum())
    scale = float(np.sqrt(np.square(ours.astype(np.float64)).mean())) or 1.0
    distance = float(np.sqrt(np.square(ours.astype(np.float64) - theirs).mean())) / scale
    return Comparison(
        shared=ours.size / numbers.size,
        equal=1.0 - changed / max(ours.size, 1),
        distance=distance,
        missing_bytes=rest.nbytes,
        changed_bytes=rest.nbytes + changed * ours.itemsize,
        float16_bytes=2 * numbers.size,
        shuffled=_shuffled(numbers),
        float16=_shuffled(numbers.astype(np.float16)),
        difference=_shuffled(_bits(ours) ^ _bits(theirs)) + _shuffled(rest),
    )


def _weights(path: Path) -> dict[str, Array]:
    """Float initializers of an artifact by name."""
    model = onnx.load(path)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def _bits(numbers: Array) -> Array:
    return numbers.view(f"u{numbers.itemsize}")


def _shuffled(numbers: Array) -> bytes:
    """Bytes of equal significance together."""
    table = np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, numbers.itemsize)
    return table.T.tobytes()
