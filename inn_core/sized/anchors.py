"""Anchor networks from what was measured: half-precision weights and the correlations of their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import AnchorNetwork, InputStatistics
from inn_core.fitting.channel_statistics import PointStatistics
from inn_core.graph.structure import Sizes

STORED = np.float16


def make_anchor(sizes: Sizes, weights: Mapping[str, Array], points: Sequence[PointStatistics]) -> AnchorNetwork:
    """An anchor network as a checkpoint keeps it.

    Args:
        sizes: of every group.
        weights: sized weights; none for the full network, whose weights the checkpoint has already.
        points: statistics of the network's own linear nodes.
    """
    halved = {name: _halved(weight) for name, weight in weights.items()}
    return AnchorNetwork(sizes, halved, {point.entry.weight: _inputs(point) for point in points})


def _inputs(point: PointStatistics) -> InputStatistics:
    covariance = point.covariance.cpu().numpy()
    scale = np.sqrt(np.maximum(covariance.diagonal(), 1e-30))
    correlation = covariance / np.outer(scale, scale)
    return InputStatistics(
        correlation=np.clip(correlation[np.tril_indices(len(scale))], -1, 1).astype(STORED),
        scale=scale.astype(np.float32),
        mean=point.mean.cpu().numpy().astype(np.float32),
    )


def _halved(weight: Array) -> Array:
    half = weight.astype(STORED)
    return half if np.isfinite(half).all() else weight


def contains(larger: Sizes, smaller: Sizes) -> bool:
    """Whether every group is at least as large."""
    return all(larger[name] >= size for name, size in smaller.items())
