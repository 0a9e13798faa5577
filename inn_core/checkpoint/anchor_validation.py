"""Check the knots of a checkpoint: every array that `instant` reads is finite and has the shape of its plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.analysis.normalize import is_usable
from inn_core.graph.axis import Axis, axis_groups, axis_size

PREFIX = "instant/"


def anchor_faults(checkpoint: Checkpoint) -> Iterator[str]:
    """What is wrong with the knots, in words; nothing when they are sound or absent."""
    arrays = {name: array for name, array in checkpoint.statistics.items() if name.startswith(PREFIX)}
    count = 0
    seen: set[str] = set()
    last = np.array([group.size for group in checkpoint.structure.groups], dtype=np.int64)
    while (sizes := arrays.get(f"{PREFIX}{count}/sizes")) is not None:
        seen.add(f"{PREFIX}{count}/sizes")
        if sizes.shape != last.shape or sizes.dtype.kind != "i" or (sizes > last).any() or (sizes < 1).any():
            yield f"the sizes of knot {count} do not lie between 1 and those of the knot before it"
            return
        if count == 0 and (sizes != last).any():
            yield "knot 0 is not the full network"
        last = sizes
        plan = {group.name: int(size) for group, size in zip(checkpoint.structure.groups, sizes, strict=True)}
        yield from _weight_faults(checkpoint, arrays, count, plan, seen)
        yield from _statistics_faults(checkpoint, arrays, count, plan, seen)
        count += 1
    stray = sorted(set(arrays) - seen)
    if stray:
        yield f"'{stray[0]}' belongs to no knot"


def _weight_faults(
    checkpoint: Checkpoint, arrays: Mapping[str, Array], index: int, plan: Mapping[str, int], seen: set[str]
) -> Iterator[str]:
    if index == 0:
        return
    for name, axes in checkpoint.structure.weights.items():
        key = f"{PREFIX}{index}/weights/{name}"
        seen.add(key)
        wanted = tuple(axis_size(axis, plan) for axis in axes)
        if key not in arrays:
            yield f"knot {index} has no weight '{name}'"
        elif arrays[key].shape != wanted or arrays[key].dtype.kind != "f" or not is_usable(arrays[key]):
            yield f"weight '{name}' of knot {index} is not of finite floats in the shape {list(wanted)}"


def _statistics_faults(
    checkpoint: Checkpoint, arrays: Mapping[str, Array], index: int, plan: Mapping[str, int], seen: set[str]
) -> Iterator[str]:
    prefix = f"{PREFIX}{index}/correlation/"
    for key in [name for name in arrays if name.startswith(prefix)]:
        name = key.removeprefix(prefix)
        parts = {kind: f"{PREFIX}{index}/{kind}/{name}" for kind in ("correlation", "scale", "mean")}
        seen.update(parts.values())
        if name not in checkpoint.structure.weights or not all(part in arrays for part in parts.values()):
            yield f"the statistics '{key}' belong to no weight or are not complete"
            continue
        lower, scale, mean = (arrays[part] for part in parts.values())
        units = len(scale) if scale.ndim == 1 else -1
        if units not in _possible_units(checkpoint.structure.weights[name], plan) or mean.shape != scale.shape:
            yield f"the statistics of weight '{name}' at knot {index} are for {units} channels, which no axis of it has"
        elif lower.shape != (units * (units + 1) // 2,) or any(each.dtype.kind != "f" for each in (lower, scale, mean)):
            yield f"the correlation of weight '{name}' at knot {index} is no triangle of {units} rows"
        elif not all(np.isfinite(each).all() for each in (lower, scale, mean)) or (scale <= 0).any():
            yield f"the statistics of weight '{name}' at knot {index} are not finite"


def _possible_units(axes: tuple[Axis, ...], plan: Mapping[str, int]) -> set[int]:
    whole = {axis_size(axis, plan) for axis in axes}
    return whole | {plan[group] for axis in axes for group in axis_groups(axis)}
