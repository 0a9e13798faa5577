"""Check that the parts of an integral network fit each other, before it is written and after it is read.

Past this check the rest of the package may rely on every name, shape and order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper

from inn_core.arrays import Array
from inn_core.checkpoint.calibration import LEVELS
from inn_core.checkpoint.checkpoint import Checkpoint, InconsistentCheckpointError
from inn_core.checkpoint.sizes_validation import anchor_faults, trained_faults
from inn_core.errors import InnError, InvalidWeightsError
from inn_core.graph.analysis.normalize import FLOAT_TYPES, is_usable
from inn_core.graph.axis import Axis, axis_groups, axis_size
from inn_core.graph.cost import PATH_UNITS, CostModel
from inn_core.graph.structure import Structure

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_checkpoint(checkpoint: Checkpoint, *, finite: bool = True) -> None:
    """Check everything that other modules assume.

    Args:
        checkpoint: to check.
        finite: also look at every weight for NaN and infinity.

    Raises:
        InconsistentCheckpointError: what does not fit, in words.
        InvalidWeightsError: a weight holds NaN or infinity.
    """
    if not isinstance(checkpoint.name, str) or not NAME_PATTERN.fullmatch(checkpoint.name):
        raise InconsistentCheckpointError(f"the name {checkpoint.name!r} does not match {NAME_PATTERN.pattern}")
    _check_graph(checkpoint)
    _check_inputs(checkpoint)
    _check_groups(checkpoint.structure)
    _check_weights(checkpoint, finite=finite)
    _check_orders_and_curves(checkpoint)
    _check_calibration(checkpoint)
    for fault in (*anchor_faults(checkpoint), *trained_faults(checkpoint)):
        raise InconsistentCheckpointError(fault)
    try:
        CostModel.of(checkpoint.template, checkpoint.structure)
    except InnError as error:
        raise InconsistentCheckpointError(error.message) from error


def _check_graph(checkpoint: Checkpoint) -> None:
    """Names resolve, in topological order, and nothing is defined twice."""
    graph = checkpoint.template.model.graph
    known = {""}
    constants = [tensor.name for tensor in graph.initializer]
    for tensor in graph.initializer:
        if tensor.data_type in FLOAT_TYPES:
            raise InconsistentCheckpointError(f"the template still holds the float initializer '{tensor.name}'")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InconsistentCheckpointError(f"initializer '{tensor.name}' keeps its data in another file")
    inputs = [value.name for value in graph.input]
    for name in (*inputs, *constants, *checkpoint.template.weights):
        _define(name, known)
    nodes: set[str] = set()
    for node in graph.node:
        missing = next((name for name in node.input if name not in known), None)
        if missing is not None:
            raise InconsistentCheckpointError(f"node '{node.name}' reads '{missing}', which nothing before it writes")
        if not node.name or node.name in nodes:
            raise InconsistentCheckpointError(f"node name '{node.name}' is empty or used twice")
        nodes.add(node.name)
        for name in node.output:
            if name:
                _define(name, known)
    missing = next((value.name for value in graph.output if value.name not in known), None)
    if missing is not None:
        raise InconsistentCheckpointError(f"graph output '{missing}' is written by no node")


def _check_inputs(checkpoint: Checkpoint) -> None:
    """The axes of every graph input are known, never change, and agree with what the graph declares."""
    for value in checkpoint.template.model.graph.input:
        axes = checkpoint.structure.values.get(value.name)
        if axes is None or any(axis_groups(axis) for axis in axes):
            raise InconsistentCheckpointError(f"the axes of graph input '{value.name}' are unknown or not fixed")
        declared = value.type.tensor_type.shape.dim
        sizes = [axis_size(axis, {}) for axis in axes]
        fits = len(declared) == len(sizes) and all(
            not axis.HasField("dim_value") or axis.dim_value == size
            for axis, size in zip(list(declared)[1:], sizes[1:], strict=True)
        )
        if not fits:
            raise InconsistentCheckpointError(
                f"graph input '{value.name}' declares another shape than its axes {sizes}"
            )


def _define(name: str, known: set[str]) -> None:
    if name in known:
        raise InconsistentCheckpointError(f"value '{name}' is defined twice")
    known.add(name)


def _check_groups(structure: Structure) -> None:
    names = [group.name for group in structure.groups]
    if len(set(names)) != len(names):
        raise InconsistentCheckpointError("two groups have the same name")
    for group in structure.groups:
        if not 1 <= group.minimum <= group.size:
            raise InconsistentCheckpointError(
                f"group '{group.name}' has minimum {group.minimum} and size {group.size}; 1 <= minimum <= size must be"
            )
        for tensor, axis in group.places:
            if tensor not in structure.weights or axis >= len(structure.weights[tensor]):
                raise InconsistentCheckpointError(
                    f"group '{group.name}' names axis {axis} of '{tensor}': no such weight axis"
                )
    unknown = _groups_of(_all_axes(structure)) - set(names)
    if unknown:
        raise InconsistentCheckpointError(f"the structure names unknown group '{min(unknown)}'")


def _all_axes(structure: Structure) -> Iterable[Axis]:
    for axes in (*structure.weights.values(), *structure.values.values(), *(term.axes for term in structure.macs)):
        yield from axes
    for constant in structure.constants:
        yield constant.axis
    for attribute in structure.attributes:
        yield attribute.axis


def _groups_of(axes: Iterable[Axis]) -> frozenset[str]:
    return frozenset().union(*(axis_groups(axis) for axis in axes))


def _check_weights(checkpoint: Checkpoint, *, finite: bool) -> None:
    declared = checkpoint.template.weights
    _check_keys("weights", checkpoint.weights, declared)
    _check_keys("axes of weights", checkpoint.structure.weights, declared)
    full = checkpoint.structure.full_sizes()
    for name, (shape, element_type) in declared.items():
        array = checkpoint.weights[name]
        if element_type not in FLOAT_TYPES or array.dtype != helper.tensor_dtype_to_np_dtype(element_type):
            raise InconsistentCheckpointError(
                f"weight '{name}' has dtype {array.dtype}; the template has type {element_type}"
            )
        axes = tuple(axis_size(axis, full) for axis in checkpoint.structure.weights[name])
        if not array.shape == shape == axes:
            raise InconsistentCheckpointError(
                f"weight '{name}' has shape {array.shape}, the template {shape}, its axes {axes}; they must be equal"
            )
        if finite and not is_usable(array):
            raise InvalidWeightsError(name, "NaN" if np.isnan(array).any() else "infinity")


def _check_orders_and_curves(checkpoint: Checkpoint) -> None:
    groups = checkpoint.structure.groups
    names = checkpoint.structure.full_sizes()
    _check_keys("orders", checkpoint.orders, names)
    _check_keys("curves", checkpoint.curves, names)
    for group in groups:
        order, curve = checkpoint.orders[group.name], checkpoint.curves[group.name]
        if order.dtype != np.int64 or order.ndim != 1 or not np.array_equal(np.sort(order), np.arange(group.size)):
            raise InconsistentCheckpointError(
                f"the order of group '{group.name}' is no permutation of {group.size} channels"
            )
        if curve.dtype != np.float64 or curve.shape != (group.size + 1,):
            raise InconsistentCheckpointError(
                f"the curve of group '{group.name}' has shape {curve.shape} of {curve.dtype}, not ({group.size + 1},)"
            )
        if not np.isfinite(curve[group.minimum :]).all():
            raise InconsistentCheckpointError(f"the curve of group '{group.name}' is not finite")
    _check_keys("paths", checkpoint.paths, PATH_UNITS)
    steps = np.array([group.size - group.minimum for group in groups], dtype=np.int64)
    for unit, path in checkpoint.paths.items():
        whole = path.dtype == np.int32 and path.ndim == 1 and path.size == steps.sum() and not (path < 0).any()
        if not whole or not np.array_equal(np.bincount(path, minlength=len(steps)), steps):
            raise InconsistentCheckpointError(
                f"the size path for {unit} does not lead from the full to the smallest sizes"
            )


def _check_calibration(checkpoint: Checkpoint) -> None:
    samples = checkpoint.calibration
    if not samples:
        return
    _check_keys("calibration samples", samples, {value.name for value in checkpoint.template.model.graph.input})
    counts = {array.shape[0] if array.ndim else 0 for array in samples.values()}
    if len(counts) != 1 or 0 in counts:
        raise InconsistentCheckpointError(
            f"calibration inputs have {sorted(counts)} samples; all must have the same number"
        )
    for name, array in samples.items():
        axes = checkpoint.structure.values[name]
        if array.shape[1:] != tuple(axis_size(axis, {}) for axis in axes[1:]):
            raise InconsistentCheckpointError(
                f"calibration input '{name}' has shape {array.shape}, unlike the graph input"
            )
        if not _is_finite(array):
            raise InconsistentCheckpointError(f"calibration input '{name}' holds NaN or infinity")
        levels = checkpoint.levels.get(name)
        if levels is None:
            continue
        rows = {1, array.shape[1] if array.ndim > 1 else 1}
        if array.dtype != np.uint8 or levels.ndim != 2 or levels.shape[1] != LEVELS or levels.shape[0] not in rows:
            raise InconsistentCheckpointError(f"the levels of calibration input '{name}' do not fit its samples")


def _is_finite(array: Array) -> bool:
    return array.dtype.kind in "iub" or bool(np.isfinite(array).all())


def _check_keys(what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    found, expected = set(found), set(expected)
    if found != expected:
        name = min(found ^ expected)
        state = "missing" if name in expected else "unknown"
        raise InconsistentCheckpointError(f"{what} of {state} name '{name}'")
