"""Knots of `instant`: refined networks along the size path, as arrays of the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inn_core.calibration import calibration_samples
from inn_core.cost import CostModel
from inn_core.discretize import refine
from inn_core.engine import Engine
from inn_core.graph.axis import axis_groups
from inn_core.network import Array, Checkpoint
from inn_core.progress import Progress, scaled
from inn_core.statistics import PointStatistics, channel_axis, collect_statistics
from inn_core.stored_knots import knot_arrays

DENSE_RATIO, SPARSE_RATIO = 0.7, 0.6  # parameters of a knot over those of the one before
DENSE_BELOW = 4_000_000  # parameters: small networks can afford the denser knots
LEAST_SHARE = 0.02  # of the parameters; below it the last knot serves


def knot_sizes(network: Checkpoint, cost: CostModel) -> list[NDArray[np.int64]]:
    """Sizes at the knots: plans of the parameter path whose parameters fall by a constant ratio, without the full."""
    sizes = cost.full().copy()
    full = int(cost.evaluate("params", sizes[None])[0])
    ratio = DENSE_RATIO if full < DENSE_BELOW else SPARSE_RATIO
    wanted = full * ratio
    params = full
    result = []
    for group in network.paths["params"]:
        params -= int(cost.savings("params", sizes)[group])
        sizes[group] -= 1
        if params <= wanted:
            result.append(sizes.copy())
            wanted *= ratio
            if wanted < full * LEAST_SHARE:
                break
    return result


def store_knots(
    network: Checkpoint,
    cost: CostModel,
    engine: Engine,
    points: Sequence[PointStatistics],
    progress: Progress,
) -> dict[str, Array]:
    """Refine the network at every knot and collect what `instant` needs.

    Args:
        network: with orders, paths and calibration samples.
        points: statistics of the full network.

    Returns:
        Arrays for the checkpoint's statistics.
    """
    arrays = knot_arrays(0, cost.full(), None, _resizable(network, points))
    sizes = knot_sizes(network, cost)
    chunks = engine.chunks(calibration_samples(network))
    for number, row in enumerate(sizes):
        report = scaled(progress, number / len(sizes), (number + 1) / len(sizes))
        plan = cost.to_sizes(row)
        refined = refine(network, plan, engine, progress=_as_knots(report))
        sized = Engine.build_sized(network, plan, refined.weights, engine.device)
        own = collect_statistics(sized.program, sized.structure, sized.weights, chunks, fisher=False)
        arrays |= knot_arrays(number + 1, row, refined.weights, _resizable(network, own))
        report("knots", 1.0)
    return arrays


def _as_knots(report: Progress) -> Progress:
    """Refinement is most of the work of a knot; its statistics are the rest."""
    return lambda _, share: report("knots", 0.9 * share)


def _resizable(network: Checkpoint, points: Sequence[PointStatistics]) -> list[PointStatistics]:
    """Statistics of the dense nodes whose contracted axis can change."""
    return [
        point
        for point in points
        if axis_groups(channel_axis(network.structure, point.entry))
        and int(point.entry.node.attributes.get("group", 1)) == 1
    ]
