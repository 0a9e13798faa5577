"""Check the stored sizes of a checkpoint: whatever a size is made from is finite and has the shape of its plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import AnchorNetwork, Checkpoint, InputStatistics, TrainedSizes
from inn_core.graph.analysis.normalize import is_usable
from inn_core.graph.axis import Axis, axis_groups, axis_size
from inn_core.graph.cost import PATH_UNITS
from inn_core.graph.structure import Sizes

MOST_KNOTS = 64
"""Most measured sizes on a size path: training stops there, and a file may not ask for more."""

NORMALIZED_OPERATORS = ("Conv", "ConvTranspose", "Gemm")
"""Operators of the nodes that have a scale and a shift."""

_SAMPLINGS = {"nested": {"kind"}, "kernel": {"kind", "interpolation", "quadrature", "grid"}}


def anchor_faults(checkpoint: Checkpoint) -> Iterator[str]:
    """What is wrong with the anchor networks, in words; nothing when they are sound or absent."""
    fault = _path_fault(checkpoint, [anchor.sizes for anchor in checkpoint.anchors], "")
    if fault:
        yield fault
        return
    for number, anchor in enumerate(checkpoint.anchors):
        wanted = checkpoint.structure.weights if number else {}
        if anchor.weights.keys() != wanted.keys():
            yield f"knot {number} has not the weights of the network: '{min(anchor.weights.keys() ^ wanted.keys())}'"
            continue
        for name, array in anchor.weights.items():
            shape = tuple(axis_size(axis, anchor.sizes) for axis in wanted[name])
            if array.shape != shape or array.dtype.kind != "f" or not is_usable(array):
                yield f"weight '{name}' of knot {number} is not of finite floats in the shape {list(shape)}"
        for name, inputs in anchor.inputs.items():
            axes = checkpoint.structure.weights.get(name, ())
            fault = _inputs_fault(inputs, _possible_units(axes, anchor))
            if fault:
                yield f"the statistics of weight '{name}' at knot {number} {fault}"


def trained_faults(checkpoint: Checkpoint) -> Iterator[str]:
    """What is wrong with the trained sizes and channel permutations, in words; nothing when sound or absent."""
    yield from _permutation_faults(checkpoint)
    trained = checkpoint.trained
    if trained is None:
        return
    sampling = trained.sampling
    known = all(isinstance(value, str) for value in sampling.values())
    if not known or set(sampling) != _SAMPLINGS.get(sampling.get("kind", "")):
        yield f"the sampling {dict(sampling)} of its trained sizes is unknown"
    if sampling.get("kind") == "kernel" and not checkpoint.channel_permutations:
        yield "its sizes are sampled from kernels, and the smoothing orders are missing"
    yield from _moment_faults(checkpoint, trained)
    yield from _partition_faults(checkpoint, trained)


def _path_fault(checkpoint: Checkpoint, path: Iterable[Sizes], unit: str) -> str | None:
    """Sizes on a path begin at the full network and never grow."""
    last = full = checkpoint.structure.full_sizes()
    for number, sizes in enumerate(path):
        if sizes.keys() != full.keys() or any(not 1 <= size <= last[name] for name, size in sizes.items()):
            return f"the sizes of knot {number}{unit} do not lie between 1 and those of the knot before it"
        if number == 0 and sizes != full:
            return f"knot 0{unit} is not the full network"
        last = dict(sizes)
    return None


def _inputs_fault(inputs: InputStatistics, possible: set[int]) -> str | None:
    lower, scale, mean = inputs.correlation, inputs.scale, inputs.mean
    units = len(scale) if scale.ndim == 1 else -1
    if units not in possible or mean.shape != scale.shape:
        return f"are for {units} channels, which no axis of it has"
    if lower.shape != (units * (units + 1) // 2,) or any(each.dtype.kind != "f" for each in (lower, scale, mean)):
        return f"have a correlation that is no triangle of {units} rows"
    if not all(np.isfinite(each).all() for each in (lower, scale, mean)) or (scale <= 0).any():
        return "are not finite"
    return None


def _possible_units(axes: tuple[Axis, ...], anchor: AnchorNetwork) -> set[int]:
    whole = {axis_size(axis, anchor.sizes) for axis in axes}
    return whole | {anchor.sizes[group] for axis in axes for group in axis_groups(axis)}


def _permutation_faults(checkpoint: Checkpoint) -> Iterator[str]:
    orders, full = checkpoint.channel_permutations, checkpoint.structure.full_sizes()
    stray = sorted(orders.keys() - full.keys())
    if stray:
        yield f"'smooth/{stray[0]}' belongs to no group"
    for name, size in full.items():
        order = orders.get(name, np.arange(size))
        fits = order.dtype == np.int64 and order.shape == (size,)
        if not fits or not np.array_equal(np.sort(order), np.arange(size)):
            yield f"the smoothing order of group '{name}' is no permutation of {size} channels"
    if orders and orders.keys() != full.keys():
        yield "some groups have a smoothing order and others none"


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


def _moment_faults(checkpoint: Checkpoint, trained: TrainedSizes) -> Iterator[str]:
    biases = _biases(checkpoint)
    for weight in trained.scales:
        if weight not in biases:
            yield f"weight '{weight}' has a scale and belongs to no node that can be normalized"
            return

    def channels(sizes: Sizes) -> dict[str, int]:
        return {weight: axis_size(checkpoint.structure.weights[biases[weight]][0], sizes) for weight in trained.scales}

    for unit in PATH_UNITS:
        path = trained.paths.get(unit, ())
        fault = _path_fault(checkpoint, [size.sizes for size in path], f" for {unit}")
        if fault or not path:
            yield fault or f"the trained sizes have no knot for {unit}"
            return
        if len(path) > MOST_KNOTS:
            yield f"the trained sizes have more than {MOST_KNOTS} knots for {unit}; measure them again"
            return
        for number, size in enumerate(path):
            where = f"of knot {number} for {unit}"
            wanted = channels(size.sizes)
            yield from _vector_faults({name: m.mean for name, m in size.moments.items()}, wanted, f"mean {where}")
            variances = {name: moments.variance for name, moments in size.moments.items()}
            yield from _vector_faults(variances, wanted, f"variance {where}")
            for name, variance in variances.items():
                if (variance < 0).any():
                    yield f"the variance {where} of '{name}' is negative"
    full = channels(checkpoint.structure.full_sizes())
    yield from _vector_faults(trained.scales, full, "scale")
    yield from _vector_faults(trained.shifts, full, "shift")


def _vector_faults(arrays: Mapping[str, Array], wanted: Mapping[str, int], what: str) -> Iterator[str]:
    """One vector of so many float32 numbers for every weight."""
    odd = sorted(arrays.keys() ^ wanted.keys())
    if odd:
        yield f"the {what} of weight '{odd[0]}' is missing, or it belongs to no normalized node"
        return
    for name, array in arrays.items():
        if array.shape != (wanted[name],) or array.dtype != np.float32 or not is_usable(array):
            yield f"the {what} of weight '{name}' is not of {wanted[name]} finite float32 numbers"


def _partition_faults(checkpoint: Checkpoint, trained: TrainedSizes) -> Iterator[str]:
    full = checkpoint.structure.full_sizes()
    for group, partitions in trained.partitions.items():
        for cells, edges in partitions.items():
            if not 1 <= cells < full.get(group, 0):
                yield f"'trained/partition/{group}/{cells}' belongs to no group, or to no size of it"
                continue
            fits = edges.dtype == np.float64 and edges.shape == (cells + 1,) and np.isfinite(edges).all()
            if not fits or edges[0] != 0 or edges[-1] != 1 or (np.diff(edges) < 0).any():
                yield f"the partition of group '{group}' with {cells} cells does not rise from 0 to 1"
