"""Allocation: how much damage each group takes at each size, measured on the way down the size path.

Shrinking one group of the full network alone says little about a network that is small everywhere. So the descent
goes rung by rung: at each rung the network is refined at its present sizes and with each group shrunk a little more,
the divergence on held-back samples is measured, the greedy order's predicted curve is scaled to the measurement, and
channels leave where the scaled damage per saved parameter is least, until the next rung.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inn_core.fitting.channel_order import NestedOrder
from inn_core.graph.cost import CostModel
from inn_core.planning.size_path import build_path, removal_slopes
from inn_core.progress import Progress, no_progress

Sizes = dict[str, int]
Measure = Callable[[Sequence[Sizes]], list[float]]

PROBE = 0.7  # a group is probed at this share of its present size
REACH = 0.5  # within one rung no group goes below this share: the measurement says little about what lies beyond
LAST_RUNG = 0.03  # below this share of the parameters the last measured curves are followed
LEAST_DAMAGE = 1e-9  # nats; what rounding and chance leave of no damage at all


@dataclass(frozen=True)
class Allocation:
    """Attributes: path, group index of each removed channel; curves, damage by group and size, index m."""

    path: NDArray[np.int32]
    curves: dict[str, NDArray[np.float64]]


def estimated_allocation(cost: CostModel, orders: Mapping[str, NestedOrder]) -> Allocation:
    """Allocation by the predicted curves alone: second order, activations of the full network, no measurement."""
    curves = {name: order.damage for name, order in orders.items()}
    return Allocation(build_path(cost, curves, unit="params"), curves)


def measured_allocation(
    cost: CostModel,
    orders: Mapping[str, NestedOrder],
    measure: Measure,
    *,
    rung_ratio: float = 0.8,
    progress: Progress = no_progress,
) -> Allocation:
    """Allocation by measurement.

    Args:
        cost: costs of the network.
        orders: with the predicted curves that the measurements scale.
        measure: divergence of the refined network at each of the given sizes.
        rung_ratio: parameters of a rung over those of the one before.

    Returns:
        The whole size path, and for every group the damage added up along it.
    """
    names = [group.name for group in cost.groups]
    sizes = cost.full().copy()
    minimum = cost.minimum()
    full_params = int(cost.evaluate("params", sizes[None])[0])
    curves = {name: np.zeros(len(orders[name].damage)) for name in names}
    shapes = [np.asarray(orders[name].damage, dtype=np.float64) for name in names]
    steps: list[int] = []
    local = shapes
    while (sizes > minimum).any():
        params = int(cost.evaluate("params", sizes[None])[0])
        share = params / full_params
        is_measured = share > LAST_RUNG
        if is_measured:
            local = _local_curves(cost, sizes, minimum, shapes, measure)
            progress("allocation", min(1.0, np.log(share) / np.log(LAST_RUNG)))
        floor = np.maximum(minimum, (sizes * REACH).astype(np.int64)) if is_measured else minimum
        stop = params * rung_ratio if is_measured else 0.0
        _descend(cost, sizes, floor, stop, local, steps, [curves[name] for name in names])
    for curve in curves.values():
        _accumulate(curve)
    return Allocation(np.array(steps, dtype=np.int32), curves)


def _local_curves(
    cost: CostModel,
    sizes: NDArray[np.int64],
    minimum: NDArray[np.int64],
    shapes: Sequence[NDArray[np.float64]],
    measure: Measure,
) -> list[NDArray[np.float64]]:
    """Damage of every group at every size below its present one, scaled to a measurement."""
    probes = np.maximum(minimum, np.minimum((sizes * PROBE).astype(np.int64), sizes - 1))
    probed = np.flatnonzero(sizes > minimum)
    plans = [cost.to_sizes(sizes)]
    for i in probed.tolist():
        row = sizes.copy()
        row[i] = probes[i]
        plans.append(cost.to_sizes(row))
    found = measure(plans)
    measured = dict(zip(probed.tolist(), (max(value - found[0], LEAST_DAMAGE) for value in found[1:]), strict=True))
    result = []
    for number, shape in enumerate(shapes):
        present = int(sizes[number])
        rise = shape[: present + 1] - shape[present]
        if number in measured:
            predicted = float(rise[probes[number]])
            if predicted <= 0:  # no shape to scale: as steep as 1/m
                rise = present / np.maximum(np.arange(present + 1), 0.5) - 1.0
                predicted = float(rise[probes[number]])
            rise = rise * (measured[number] / predicted)
        result.append(rise)
    return result


def _descend(
    cost: CostModel,
    sizes: NDArray[np.int64],
    floor: NDArray[np.int64],
    stop: float,
    local: Sequence[NDArray[np.float64]],
    steps: list[int],
    added: Sequence[NDArray[np.float64]],
) -> None:
    """Take channels off `sizes` by least damage per parameter until the cost is at most `stop` or all are at `floor`.

    Appends each step to `steps` and writes its damage into `added[group][new size]`.
    """
    slopes = [removal_slopes(curve, int(low), int(high)) for curve, low, high in zip(local, floor, sizes, strict=True)]
    start = sizes.copy()
    params = int(cost.evaluate("params", sizes[None])[0])
    slope = np.array([s[0] if len(s) else np.inf for s in slopes])
    while params > stop and (sizes > floor).any():
        saving = cost.savings("params", sizes)
        ratio = np.where((sizes > floor) & (saving > 0), slope / np.maximum(saving, 1), np.inf)
        group = int(ratio.argmin())
        if not np.isfinite(ratio[group]):
            group = int(np.flatnonzero(sizes > floor)[0])
        added[group][int(sizes[group]) - 1] = slope[group] if np.isfinite(slope[group]) else 0.0
        params -= int(saving[group])
        sizes[group] -= 1
        steps.append(group)
        taken = int(start[group] - sizes[group])
        slope[group] = slopes[group][taken] if taken < len(slopes[group]) else np.inf


def _accumulate(increments: NDArray[np.float64]) -> None:
    """Damage of each removal, written at the size it leads to, becomes damage by size, in place."""
    increments[:] = np.cumsum(increments[::-1])[::-1]
