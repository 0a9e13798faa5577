"""Check that the parts of an integral network fit each other, before it is written and after it is read.

Past this check the rest of the package may rely on every name, shape and order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper

from inn_core.calibration import LEVELS, levels_name
from inn_core.cost import PATH_UNITS, CostModel
from inn_core.errors import InnError, InvalidWeightsError
from inn_core.graph.axis import Axis, axis_groups, axis_size
from inn_core.graph.normalize import FLOAT_TYPES, is_usable
from inn_core.knot_check import knot_faults
from inn_core.network import Array, Checkpoint, Structure
from inn_core.trained_check import trained_faults

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class InconsistentNetworkError(Exception):
    """Parts of a network contradict each other; the message says which. Callers translate it."""


def check_network(network: Checkpoint, *, finite: bool = True) -> None:
    """Check everything that other modules assume.

    Args:
        network: to check.
        finite: also look at every weight for NaN and infinity.

    Raises:
        InconsistentNetworkError: what does not fit, in words.
        InvalidWeightsError: a weight holds NaN or infinity.
    """
    if not isinstance(network.name, str) or not NAME_PATTERN.fullmatch(network.name):
        raise InconsistentNetworkError(f"the name {network.name!r} does not match {NAME_PATTERN.pattern}")
    _check_graph(network)
    _check_inputs(network)
    _check_groups(network.structure)
    _check_weights(network, finite=finite)
    _check_orders_and_curves(network)
    _check_calibration(network)
    for fault in (*knot_faults(network), *trained_faults(network)):
        raise InconsistentNetworkError(fault)
    try:
        CostModel.of(network)
    except InnError as error:
        raise InconsistentNetworkError(error.message) from error


def _check_graph(network: Checkpoint) -> None:
    """Names resolve, in topological order, and nothing is defined twice."""
    graph = network.template.model.graph
    known = {""}
    constants = [tensor.name for tensor in graph.initializer]
    for tensor in graph.initializer:
        if tensor.data_type in FLOAT_TYPES:
            raise InconsistentNetworkError(f"the template still holds the float initializer '{tensor.name}'")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InconsistentNetworkError(f"initializer '{tensor.name}' keeps its data in another file")
    inputs = [value.name for value in graph.input]
    for name in (*inputs, *constants, *network.template.weights):
        _define(name, known)
    nodes: set[str] = set()
    for node in graph.node:
        missing = next((name for name in node.input if name not in known), None)
        if missing is not None:
            raise InconsistentNetworkError(f"node '{node.name}' reads '{missing}', which nothing before it writes")
        if not node.name or node.name in nodes:
            raise InconsistentNetworkError(f"node name '{node.name}' is empty or used twice")
        nodes.add(node.name)
        for name in node.output:
            if name:
                _define(name, known)
    missing = next((value.name for value in graph.output if value.name not in known), None)
    if missing is not None:
        raise InconsistentNetworkError(f"graph output '{missing}' is written by no node")


def _check_inputs(network: Checkpoint) -> None:
    """The axes of every graph input are known, never change, and agree with what the graph declares."""
    for value in network.template.model.graph.input:
        axes = network.structure.values.get(value.name)
        if axes is None or any(axis_groups(axis) for axis in axes):
            raise InconsistentNetworkError(f"the axes of graph input '{value.name}' are unknown or not fixed")
        declared = value.type.tensor_type.shape.dim
        sizes = [axis_size(axis, {}) for axis in axes]
        fits = len(declared) == len(sizes) and all(
            not axis.HasField("dim_value") or axis.dim_value == size
            for axis, size in zip(list(declared)[1:], sizes[1:], strict=True)
        )
        if not fits:
            raise InconsistentNetworkError(f"graph input '{value.name}' declares another shape than its axes {sizes}")


def _define(name: str, known: set[str]) -> None:
    if name in known:
        raise InconsistentNetworkError(f"value '{name}' is defined twice")
    known.add(name)


def _check_groups(structure: Structure) -> None:
    names = [group.name for group in structure.groups]
    if len(set(names)) != len(names):
        raise InconsistentNetworkError("two groups have the same name")
    for group in structure.groups:
        if not 1 <= group.minimum <= group.size:
            raise InconsistentNetworkError(
                f"group '{group.name}' has minimum {group.minimum} and size {group.size}; 1 <= minimum <= size must be"
            )
        for tensor, axis in group.places:
            if tensor not in structure.weights or axis >= len(structure.weights[tensor]):
                raise InconsistentNetworkError(
                    f"group '{group.name}' names axis {axis} of '{tensor}': no such weight axis"
                )
    unknown = _groups_of(_all_axes(structure)) - set(names)
    if unknown:
        raise InconsistentNetworkError(f"the structure names unknown group '{min(unknown)}'")


def _all_axes(structure: Structure) -> Iterable[Axis]:
    for axes in (*structure.weights.values(), *structure.values.values(), *(term.axes for term in structure.macs)):
        yield from axes
    for constant in structure.constants:
        yield constant.axis
    for attribute in structure.attributes:
        yield attribute.axis


def _groups_of(axes: Iterable[Axis]) -> frozenset[str]:
    return frozenset().union(*(axis_groups(axis) for axis in axes))


def _check_weights(network: Checkpoint, *, finite: bool) -> None:
    declared = network.template.weights
    _check_keys("weights", network.weights, declared)
    _check_keys("axes of weights", network.structure.weights, declared)
    full = network.structure.full_sizes()
    for name, (shape, element_type) in declared.items():
        array = network.weights[name]
        if element_type not in FLOAT_TYPES or array.dtype != helper.tensor_dtype_to_np_dtype(element_type):
            raise InconsistentNetworkError(
                f"weight '{name}' has dtype {array.dtype}; the template has type {element_type}"
            )
        axes = tuple(axis_size(axis, full) for axis in network.structure.weights[name])
        if not array.shape == shape == axes:
            raise InconsistentNetworkError(
                f"weight '{name}' has shape {array.shape}, the template {shape}, its axes {axes}; they must be equal"
            )
        if finite and not is_usable(array):
            raise InvalidWeightsError(name, "NaN" if np.isnan(array).any() else "infinity")


def _check_orders_and_curves(network: Checkpoint) -> None:
    groups = network.structure.groups
    names = network.structure.full_sizes()
    _check_keys("orders", network.orders, names)
    _check_keys("curves", network.curves, names)
    for group in groups:
        order, curve = network.orders[group.name], network.curves[group.name]
        if order.dtype != np.int64 or order.ndim != 1 or not np.array_equal(np.sort(order), np.arange(group.size)):
            raise InconsistentNetworkError(
                f"the order of group '{group.name}' is no permutation of {group.size} channels"
            )
        if curve.dtype != np.float64 or curve.shape != (group.size + 1,):
            raise InconsistentNetworkError(
                f"the curve of group '{group.name}' has shape {curve.shape} of {curve.dtype}, not ({group.size + 1},)"
            )
        if not np.isfinite(curve[group.minimum :]).all():
            raise InconsistentNetworkError(f"the curve of group '{group.name}' is not finite")
    _check_keys("paths", network.paths, PATH_UNITS)
    steps = np.array([group.size - group.minimum for group in groups], dtype=np.int64)
    for unit, path in network.paths.items():
        whole = path.dtype == np.int32 and path.ndim == 1 and path.size == steps.sum() and not (path < 0).any()
        if not whole or not np.array_equal(np.bincount(path, minlength=len(steps)), steps):
            raise InconsistentNetworkError(
                f"the size path for {unit} does not lead from the full to the smallest sizes"
            )


def _check_calibration(network: Checkpoint) -> None:
    samples = network.calibration
    if not samples:
        return
    _check_keys("calibration samples", samples, {value.name for value in network.template.model.graph.input})
    counts = {array.shape[0] if array.ndim else 0 for array in samples.values()}
    if len(counts) != 1 or 0 in counts:
        raise InconsistentNetworkError(
            f"calibration inputs have {sorted(counts)} samples; all must have the same number"
        )
    for name, array in samples.items():
        axes = network.structure.values[name]
        if array.shape[1:] != tuple(axis_size(axis, {}) for axis in axes[1:]):
            raise InconsistentNetworkError(
                f"calibration input '{name}' has shape {array.shape}, unlike the graph input"
            )
        if not _is_finite(array):
            raise InconsistentNetworkError(f"calibration input '{name}' holds NaN or infinity")
        levels = network.statistics.get(levels_name(name))
        if levels is None:
            continue
        rows = {1, array.shape[1] if array.ndim > 1 else 1}
        if array.dtype != np.uint8 or levels.ndim != 2 or levels.shape[1] != LEVELS or levels.shape[0] not in rows:
            raise InconsistentNetworkError(f"the levels of calibration input '{name}' do not fit its samples")


def _is_finite(array: Array) -> bool:
    return array.dtype.kind in "iub" or bool(np.isfinite(array).all())


def _check_keys(what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    found, expected = set(found), set(expected)
    if found != expected:
        name = min(found ^ expected)
        state = "missing" if name in expected else "unknown"
        raise InconsistentNetworkError(f"{what} of {state} name '{name}'")
