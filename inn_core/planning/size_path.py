"""The size path: the order in which channels leave a network on its way from full size to the smallest.

A prefix of the path is a plan, so all sizes of one path are nested and a budget is found by binary search. Each step
removes the channel that loses least for what it saves, `(predicted damage) / (cost)`: for damages that are convex and
add up this greedy rule follows the optimum of `minimise sum of damages subject to the budget`.

Source: the marginal analysis of Fox, "Discrete optimization via marginal analysis", Management Science 13(3), 1966.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from inn_core.arrays import FloatArray, IntArray
from inn_core.graph.cost import CostModel, Unit


def lower_hull(curve: FloatArray) -> FloatArray:
    """The largest convex function below a curve given at 0, 1, 2, …; touches it at both ends, shape kept."""
    hull: list[int] = []
    for i in range(len(curve)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (curve[b] - curve[a]) * (i - b) < (curve[i] - curve[b]) * (b - a):
                break
            hull.pop()
        hull.append(i)
    return np.interp(np.arange(len(curve)), hull, curve[hull])


def build_path(
    cost: CostModel,
    curves: Mapping[str, NDArray[np.floating]],
    *,
    unit: Unit,
    floors: Mapping[str, int] | None = None,
) -> NDArray[np.int32]:
    """Order the removal of channels from the full network down to every group's minimum.

    Args:
        cost: costs of the network.
        curves: predicted damage of every group alone at size m, index m, shape `(size + 1,)`; at least defined
            (finite) from the group's minimum on, not increasing in m. Any unit: only ratios matter.
        unit: the cost that a removed channel saves. Bytes follow parameters, so `params` serves both.
        floors: sizes below which a group goes only when all groups have reached theirs; the minimum when not given.

    Returns:
        Index of the group that loses a channel at each step, shape `(sum of (size - minimum),)`. Where a curve is
        not convex its lower convex hull decides, so a plateau or a first steep step does not stop a group. Where
        ratios are equal the group with the largest part of its channels left goes first.
    """
    minimum = cost.minimum()
    floor = minimum if floors is None else np.maximum(minimum, cost.to_row(_with_defaults(cost, floors))[0])
    sizes = cost.full()
    steps: list[int] = []
    for target in (floor, minimum):
        target = np.minimum(target, sizes)
        slopes = [
            removal_slopes(np.asarray(curves[group.name], dtype=np.float64), low, high)
            for group, low, high in zip(cost.groups, target, sizes, strict=True)
        ]
        _descend_(sizes, target, slopes, cost, unit, steps)
    return np.array(steps, dtype=np.int32)


def _with_defaults(cost: CostModel, floors: Mapping[str, int]) -> dict[str, int]:
    return {group.name: floors.get(group.name, group.minimum) for group in cost.groups}


def removal_slopes(curve: FloatArray, low: int, high: int) -> FloatArray:
    """Damage added by each removal from `high` down to `low`: never negative, never falling."""
    part = np.maximum.accumulate(curve[low : high + 1][::-1])[::-1]
    hull = lower_hull(part)
    return np.maximum(hull[:-1] - hull[1:], 0.0)[::-1]


def _descend_(
    sizes: IntArray,
    target: IntArray,
    slopes: list[FloatArray],
    cost: CostModel,
    unit: Unit,
    steps: list[int],
) -> None:
    """Take channels off `sizes` until they equal `target`, appending the group of each step."""
    start = sizes.copy()
    span = np.maximum(start - target, 1)
    slope = np.array([s[0] if len(s) else np.inf for s in slopes])
    for _ in range(int((start - target).sum())):
        saving = cost.savings(unit, sizes)
        ratio = np.divide(slope, saving, out=np.full(len(slope), np.inf), where=saving > 0)
        open_groups = sizes > target
        least = ratio[open_groups].min()
        share = np.where(open_groups & (ratio <= least), (sizes - target) / span, -1.0)
        group = int(share.argmax())
        steps.append(group)
        sizes[group] -= 1
        taken = int(start[group] - sizes[group])
        slope[group] = slopes[group][taken] if taken < len(slopes[group]) else np.inf
