"""How knots lie in a checkpoint: half-precision weights and correlations, by name, read lazily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.fitting.channel_statistics import PointStatistics

STORED = np.float16


@dataclass(frozen=True)
class AnchorNetwork:
    """One knot of a network.

    Attributes:
        index: 0 is the full network; the knots get smaller.
        sizes: of every group.
    """

    index: int
    sizes: Mapping[str, int]

    def weight(self, checkpoint: Checkpoint, name: str) -> Array:
        """The knot's weight; the full network's own is that of the checkpoint."""
        return checkpoint.weights[name] if self.index == 0 else checkpoint.statistics[self._name("weights", name)]

    def covers(self, checkpoint: Checkpoint, name: str) -> bool:
        """Whether the statistics of the input of a weight are kept."""
        return self._name("correlation", name) in checkpoint.statistics

    def correlation(self, checkpoint: Checkpoint, name: str) -> tuple[Array, Array, Array]:
        """Lower triangle of the correlation by rows, standard deviations and means of the inputs of a weight."""
        kinds = ("correlation", "scale", "mean")
        lower, scale, mean = (checkpoint.statistics[self._name(kind, name)] for kind in kinds)
        return lower, scale, mean

    def _name(self, kind: str, name: str) -> str:
        return f"instant/{self.index}/{kind}/{name}"


def anchor_arrays(
    index: int, sizes: Array, weights: Mapping[str, Array] | None, points: Sequence[PointStatistics]
) -> dict[str, Array]:
    """A knot as arrays of the checkpoint.

    Args:
        sizes: one per group, in the order of the structure.
        weights: sized weights, or None for the full network, whose weights the checkpoint has already.
        points: statistics of the knot's own linear nodes.
    """
    prefix = f"instant/{index}"
    arrays: dict[str, Array] = {f"{prefix}/sizes": np.asarray(sizes, dtype=np.int64)}
    for name, weight in (weights or {}).items():
        arrays[f"{prefix}/weights/{name}"] = _halved(weight)
    for point in points:
        covariance = point.covariance.cpu().numpy()
        scale = np.sqrt(np.maximum(covariance.diagonal(), 1e-30))
        correlation = covariance / np.outer(scale, scale)
        name = point.entry.weight
        arrays[f"{prefix}/correlation/{name}"] = np.clip(correlation[np.tril_indices(len(scale))], -1, 1).astype(STORED)
        arrays[f"{prefix}/scale/{name}"] = scale.astype(np.float32)
        arrays[f"{prefix}/mean/{name}"] = point.mean.cpu().numpy().astype(np.float32)
    return arrays


def _halved(weight: Array) -> Array:
    half = weight.astype(STORED)
    return half if np.isfinite(half).all() else weight


def read_anchors(checkpoint: Checkpoint) -> list[AnchorNetwork]:
    """The knots of a checkpoint, the full network first; empty when it keeps none."""
    names = [group.name for group in checkpoint.structure.groups]
    knots: list[AnchorNetwork] = []
    while (sizes := checkpoint.statistics.get(f"instant/{len(knots)}/sizes")) is not None:
        knots.append(AnchorNetwork(len(knots), {name: int(size) for name, size in zip(names, sizes, strict=True)}))
    return knots


def contains(larger: Mapping[str, int], smaller: Mapping[str, int]) -> bool:
    """Whether every group is at least as large."""
    return all(larger[name] >= size for name, size in smaller.items())
