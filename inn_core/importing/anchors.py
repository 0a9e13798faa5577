"""Anchor networks of `instant`: refined networks along the size path, measured at import."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inn_core.checkpoint.calibration import calibration_samples
from inn_core.checkpoint.checkpoint import AnchorNetwork, Checkpoint
from inn_core.discretize.discretize import refine
from inn_core.fitting.channel_statistics import PointStatistics, channel_axis, collect_statistics
from inn_core.fitting.runtime import LoadedNetwork
from inn_core.graph.axis import axis_groups
from inn_core.graph.cost import CostModel
from inn_core.progress import Progress, scaled
from inn_core.sized.anchors import make_anchor

DENSE_RATIO, SPARSE_RATIO = 0.7, 0.6  # parameters of an anchor over those of the one before
DENSE_BELOW = 4_000_000  # parameters: small networks can afford more anchors
LEAST_SHARE = 0.02  # of the parameters; below it the last anchor serves


def anchor_sizes(checkpoint: Checkpoint, cost: CostModel) -> list[NDArray[np.int64]]:
    """Sizes of the anchors: plans of the parameter path whose parameters fall by a constant ratio, without the full."""
    sizes = cost.full().copy()
    full = int(cost.evaluate("params", sizes[None])[0])
    ratio = DENSE_RATIO if full < DENSE_BELOW else SPARSE_RATIO
    wanted = full * ratio
    params = full
    result = []
    for group in checkpoint.paths["params"]:
        params -= int(cost.savings("params", sizes)[group])
        sizes[group] -= 1
        if params <= wanted:
            result.append(sizes.copy())
            wanted *= ratio
            if wanted < full * LEAST_SHARE:
                break
    return result


def make_anchors(
    checkpoint: Checkpoint,
    cost: CostModel,
    loaded: LoadedNetwork,
    points: Sequence[PointStatistics],
    progress: Progress,
) -> tuple[AnchorNetwork, ...]:
    """Refine the network along the size path and collect what `instant` needs.

    Args:
        checkpoint: with orders, paths and calibration samples.
        points: statistics of the full network.

    Returns:
        The full network first, each inside the one before it.
    """
    anchors = [make_anchor(checkpoint.structure.full_sizes(), {}, _resizable(checkpoint, points))]
    sizes = anchor_sizes(checkpoint, cost)
    chunks = loaded.chunks(calibration_samples(checkpoint))
    for number, row in enumerate(sizes):
        report = scaled(progress, number / len(sizes), (number + 1) / len(sizes))
        plan = cost.to_sizes(row)
        refined = refine(checkpoint, plan, loaded, progress=_most_of(report))
        sized = LoadedNetwork.build_sized(checkpoint, plan, refined.weights, loaded.device)
        own = collect_statistics(sized.program, sized.structure, sized.weights, chunks, fisher=False)
        anchors.append(make_anchor(plan, refined.weights, _resizable(checkpoint, own)))
        report("knots", 1.0)
    return tuple(anchors)


def _most_of(report: Progress) -> Progress:
    """Refinement is most of the work of an anchor; its statistics are the rest."""
    return lambda _, share: report("knots", 0.9 * share)


def _resizable(checkpoint: Checkpoint, points: Sequence[PointStatistics]) -> list[PointStatistics]:
    """Statistics of the dense nodes whose contracted axis can change."""
    return [
        point
        for point in points
        if axis_groups(channel_axis(checkpoint.structure, point.entry))
        and int(point.entry.node.attributes.get("group", 1)) == 1
    ]
