"""The size of a tensor axis as data: a sum of segments, each a product of group names and plain integers.

A convolution output is `(("c",),)`, a concat `(("a",), ("b",))`, a flattened 7x7 map `(("c", 49),)`, a channel
shuffle `((2, "c"),)`. Products run from the outer to the inner factor, as the elements lie in memory. This is what
unification (`groups.py`) ends in, and all that cost, plan, sampling and the checkpoint need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inn_core.arrays import IntArray

Segment = tuple[str | int, ...]
Axis = tuple[Segment, ...]


def fixed(size: int) -> Axis:
    """The axis of a size that never changes."""
    return ((size,),)


def axis_groups(axis: Axis) -> frozenset[str]:
    """Names of the groups that decide the size of the axis."""
    return frozenset(factor for segment in axis for factor in segment if isinstance(factor, str))


def axis_size(axis: Axis, sizes: Mapping[str, int]) -> int:
    """Number of elements along the axis when the groups have the given sizes."""
    total = 0
    for segment in axis:
        product = 1
        for factor in segment:
            product *= sizes[factor] if isinstance(factor, str) else factor
        total += product
    return total


def kept_indices(axis: Axis, full: Mapping[str, int], kept: Mapping[str, IntArray]) -> IntArray:
    """Positions along the full axis that stay when each group keeps `kept[group]`.

    Args:
        axis: the axis of the full tensor.
        full: full size of every group.
        kept: kept positions of every group, each in `0..full[group]-1`; the result follows their order.

    Returns:
        Positions, shape `(axis_size(axis, sizes),)` with `sizes[g] = len(kept[g])`: segment after segment, each
        the outer product of its factors' selections.
    """
    parts: list[IntArray] = []
    offset = 0
    for segment in axis:
        indices = np.zeros(1, dtype=np.int64)
        length = 1
        for factor in segment:
            size = full[factor] if isinstance(factor, str) else factor
            chosen = kept[factor] if isinstance(factor, str) else np.arange(factor, dtype=np.int64)
            indices = (indices[:, None] * size + chosen[None, :]).reshape(-1)
            length *= size
        parts.append(indices + offset)
        offset += length
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def axis_to_json(axis: Axis) -> list[list[str | int]]:
    """The axis as nested lists, for the checkpoint header and `inn inspect --json`."""
    return [list(segment) for segment in axis]


def axis_from_json(value: Sequence[Sequence[Any]]) -> Axis:
    """Inverse of `axis_to_json`; raises ValueError on anything but names and non-negative integers."""
    segments: list[Segment] = []
    for segment in value:
        for factor in segment:
            if (
                isinstance(factor, bool)
                or not isinstance(factor, str | int)
                or (isinstance(factor, int) and factor < 0)
            ):
                raise ValueError(f"axis factor {factor!r} is neither a group name nor a non-negative integer")
        segments.append(tuple(segment))
    return tuple(segments)
