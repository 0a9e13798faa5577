"""Check the trained sizes and smoothing orders of a checkpoint: whatever is sampled is finite and has its shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.qualities import SMOOTH, TRAINED
from inn_core.graph.analysis.normalize import is_usable
from inn_core.graph.axis import axis_size
from inn_core.graph.cost import PATH_UNITS

MOST_KNOTS = 64
"""Most knots of normalization statistics on a size path: training stops there, and a file may not ask for more."""

NORMALIZED_OPERATORS = ("Conv", "ConvTranspose", "Gemm")
"""Operators of the nodes that have a scale and a shift."""


def trained_faults(checkpoint: Checkpoint) -> Iterator[str]:
    """What is wrong with the trained sizes and smoothing orders, in words; nothing when sound or absent."""
    arrays = {name: array for name, array in checkpoint.statistics.items() if name.startswith((TRAINED, SMOOTH))}
    seen: set[str] = set()
    yield from _order_faults(checkpoint, arrays, seen)
    if checkpoint.sampling:
        yield from _sampling_faults(checkpoint.sampling)
        if checkpoint.sampling.get("kind") == "kernel" and not any(name.startswith(SMOOTH) for name in arrays):
            yield "its sizes are sampled from kernels, and the smoothing orders are missing"
        yield from _knot_faults(checkpoint, arrays, seen)
        yield from _partition_faults(checkpoint, arrays, seen)
    stray = sorted(set(arrays) - seen)
    if stray:
        yield f"'{stray[0]}' belongs to no group, node or knot, or the network was never trained"


def _order_faults(checkpoint: Checkpoint, arrays: Mapping[str, Array], seen: set[str]) -> Iterator[str]:
    found = 0
    for group in checkpoint.structure.groups:
        order = arrays.get(SMOOTH + group.name)
        if order is None:
            continue
        found += 1
        seen.add(SMOOTH + group.name)
        fits = order.dtype == np.int64 and order.shape == (group.size,)
        if not fits or not np.array_equal(np.sort(order), np.arange(group.size)):
            yield f"the smoothing order of group '{group.name}' is no permutation of {group.size} channels"
    if found not in (0, len(checkpoint.structure.groups)):
        yield "some groups have a smoothing order and others none"


def _sampling_faults(sampling: Mapping[str, str]) -> Iterator[str]:
    members = set(sampling)
    wanted = {"nested": {"kind"}, "kernel": {"kind", "interpolation", "quadrature", "grid"}}
    known = all(isinstance(value, str) for value in sampling.values())
    if not known or members != wanted.get(sampling.get("kind", "")):
        yield f"the sampling {dict(sampling)} of its trained sizes is unknown"


def _biases(checkpoint: Checkpoint) -> dict[str, str]:
    """`weight -> bias` of the linear nodes that have both."""
    nodes = checkpoint.template.model.graph.node
    known = checkpoint.structure.weights
    return {
        node.input[1]: node.input[2]
        for node in nodes
        if node.op_type in NORMALIZED_OPERATORS
        and len(node.input) == 3
        and node.input[1] in known
        and len(known.get(node.input[2], ())) == 1
    }


def _knot_faults(checkpoint: Checkpoint, arrays: Mapping[str, Array], seen: set[str]) -> Iterator[str]:
    full = checkpoint.structure.full_sizes()
    biases = _biases(checkpoint)
    weights = [name.removeprefix(f"{TRAINED}scale/") for name in arrays if name.startswith(f"{TRAINED}scale/")]
    for weight in weights:
        if weight not in biases:
            yield f"weight '{weight}' has a scale and belongs to no node that can be normalized"
            return
    for unit in PATH_UNITS:
        last = np.array([group.size for group in checkpoint.structure.groups], dtype=np.int64)
        count = 0
        while (sizes := arrays.get(f"{TRAINED}{unit}/{count}/sizes")) is not None:
            prefix = f"{TRAINED}{unit}/{count}"
            seen.add(f"{prefix}/sizes")
            if sizes.shape != last.shape or sizes.dtype != np.int64 or (sizes > last).any() or (sizes < 1).any():
                yield f"the sizes of knot {count} for {unit} do not lie between 1 and those of the knot before it"
                return
            if count == 0 and (sizes != last).any():
                yield f"knot 0 for {unit} is not the full network"
            last = sizes
            plan = {name: int(size) for name, size in zip(full, sizes, strict=True)}
            for weight in weights:
                length = axis_size(checkpoint.structure.weights[biases[weight]][0], plan)
                for kind in ("mean", "variance"):
                    yield from _vector_faults(arrays, f"{prefix}/{kind}/{weight}", length, seen)
                variance = arrays.get(f"{prefix}/variance/{weight}")
                if variance is not None and (variance < 0).any():
                    yield f"'{prefix}/variance/{weight}' is negative"
            count += 1
            if count > MOST_KNOTS:
                yield f"the trained sizes have more than {MOST_KNOTS} knots for {unit}; measure them again"
                return
        if count == 0:
            yield f"the trained sizes have no knot for {unit}"
    for weight in weights:
        length = axis_size(checkpoint.structure.weights[biases[weight]][0], full)
        for kind in ("scale", "shift"):
            yield from _vector_faults(arrays, f"{TRAINED}{kind}/{weight}", length, seen)


def _partition_faults(checkpoint: Checkpoint, arrays: Mapping[str, Array], seen: set[str]) -> Iterator[str]:
    for group in checkpoint.structure.groups:
        prefix = f"{TRAINED}partition/{group.name}/"
        for cells in range(1, group.size):
            edges = arrays.get(f"{prefix}{cells}")
            if edges is None:
                continue
            seen.add(f"{prefix}{cells}")
            fits = edges.dtype == np.float64 and edges.shape == (cells + 1,) and np.isfinite(edges).all()
            if not fits or edges[0] != 0 or edges[-1] != 1 or (np.diff(edges) < 0).any():
                yield f"the partition of group '{group.name}' with {cells} cells does not rise from 0 to 1"


def _vector_faults(arrays: Mapping[str, Array], name: str, length: int, seen: set[str]) -> Iterator[str]:
    seen.add(name)
    array = arrays.get(name)
    if array is None:
        yield f"'{name}' is missing"
    elif array.shape != (length,) or array.dtype != np.float32 or not is_usable(array):
        yield f"'{name}' is not of {length} finite float32 numbers"
