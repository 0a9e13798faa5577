"""Nested order of a group: which channels to keep first, so that every prefix represents the whole group best.

Greedy choice by the error that is left after least squares: with R the covariance of the group's activations that the
channels kept so far cannot explain, and A what the consumers make of an error there, pick
argmax_j (R A R)_jj / R_jj and deflate R. That is pivoted Cholesky with the consumers' weighting (docs/method.md); the
same pass gives the predicted divergence of every size for free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from inn_core.fitting.channel_statistics import PointStatistics, channel_axis
from inn_core.graph.axis import Axis, axis_groups
from inn_core.graph.linear_nodes import weight_matrix
from inn_core.graph.structure import Structure

RELATIVE_ZERO = 1e-10  # variance below this share of the largest is rounding


@dataclass(frozen=True)
class ConsumerStatistics:
    """What one consumer makes of one group.

    Attributes:
        covariance: of the group's channels at the consumer, shape `(size, size)`.
        weighting: A = sum over outputs of fisher x w w^T, shape `(size, size)`.
    """

    covariance: torch.Tensor
    weighting: torch.Tensor


@dataclass(frozen=True)
class NestedOrder:
    """Attributes: order, shape `(size,)`; damage, predicted divergence by kept size, shape `(size + 1,)`."""

    order: NDArray[np.int64]
    damage: NDArray[np.float64]


def consumer_statistics(
    structure: Structure, points: Sequence[PointStatistics], weights: Mapping[str, torch.Tensor]
) -> dict[str, list[ConsumerStatistics]]:
    """Every consumer's demand on every group.

    A group that is one factor among others along an axis (flattened maps, concatenations) gets the mean over the other
    factors: cross terms between them are left out.
    """
    demands: dict[str, list[ConsumerStatistics]] = {group.name: [] for group in structure.groups}
    full = structure.full_sizes()
    for point in points:
        matrix = weight_matrix(point.entry.node, weights[point.entry.weight]).double()
        if matrix.shape[0] > 1:
            continue  # grouped and depthwise nodes pass channels on; their consumers judge them
        outer, units, inner = point.layout
        weighted = matrix[0].reshape(matrix.shape[1], outer, units, -1) * point.fisher.sqrt()[:, None, None, None]
        axis = channel_axis(structure, point.entry)
        if (outer, inner) != (1, 1):
            part = weighted.transpose(0, 2).reshape(units, -1)
            (name,) = axis_groups(axis)
            demands[name].append(ConsumerStatistics(point.covariance, part @ part.T))
            continue
        for name, rows in _occurrences(axis, full):
            size = rows.shape[1]
            covariance = torch.zeros(size, size, dtype=torch.float64)
            weighting = torch.zeros(size, size, dtype=torch.float64)
            for row in torch.from_numpy(rows):
                covariance += point.covariance[row][:, row] / len(rows)
                part = weighted[:, 0, row].transpose(0, 1).reshape(size, -1)
                weighting += part @ part.T
            demands[name].append(ConsumerStatistics(covariance, weighting))
    return demands


def _occurrences(axis: Axis, full: Mapping[str, int]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Each group on an axis with the positions of its channels, one row for every setting of the other factors."""
    offset = 0
    for segment in axis:
        sizes = [full[item] if isinstance(item, str) else item for item in segment]
        length = int(np.prod(sizes, dtype=np.int64))
        positions = np.arange(offset, offset + length, dtype=np.int64).reshape(sizes)
        for place, item in enumerate(segment):
            if isinstance(item, str):
                yield item, np.moveaxis(positions, place, -1).reshape(-1, sizes[place])
        offset += length


def greedy_order(demands: Sequence[ConsumerStatistics]) -> NestedOrder:
    """Order the channels of a group for all its consumers together.

    Returns:
        A permutation, and the predicted divergence after keeping its first m channels for every m, from second order:
        half the trace of A R_m, summed over the consumers.

    Pivoted partial Cholesky of the covariance takes the pivot that lowers tr(R) most; here every pick lowers the sum of
    tr(A R) most, which takes diag(R A R), kept exact by updates in O(size^2) a pick.

    Source: Harbrecht, Peters, Schneider, On the low-rank approximation by the pivoted Cholesky decomposition, Appl.
    Numer. Math. 62, 2012, for the pivoted decomposition; the weighting by A is ours.
    """
    size = demands[0].covariance.shape[0]
    residuals = [demand.covariance.clone() for demand in demands]
    floors = [float(r.diagonal().max().clamp_min(1e-300)) * RELATIVE_ZERO for r in residuals]
    products = [r @ d.weighting for r, d in zip(residuals, demands, strict=True)]
    scores = [(p * r).sum(1) for p, r in zip(products, residuals, strict=True)]  # diag(R A R)
    left = torch.ones(size, dtype=torch.bool)
    order = np.empty(size, dtype=np.int64)
    damage = np.zeros(size + 1)
    damage[0] = sum(0.5 * float((d.weighting * r).sum()) for d, r in zip(demands, residuals, strict=True))
    for step in range(size):
        gain = torch.zeros(size, dtype=torch.float64)
        for residual, score, floor in zip(residuals, scores, floors, strict=True):
            diagonal = residual.diagonal()
            gain += torch.where(diagonal > floor, score / diagonal.clamp_min(floor), torch.zeros_like(score))
        chosen = int(torch.where(left, gain, torch.full_like(gain, -1.0)).argmax())
        order[step] = chosen
        left[chosen] = False
        damage[step + 1] = max(damage[step] - 0.5 * float(gain[chosen].clamp_min(0.0)), 0.0)
        for i, demand in enumerate(demands):
            pivot = float(residuals[i][chosen, chosen])
            if pivot <= floors[i]:
                continue
            column = residuals[i][:, chosen].clone()
            weighted = demand.weighting @ column
            through = residuals[i] @ weighted
            scores[i] += column.square() * (float(column @ weighted) / pivot**2) - 2 * column * through / pivot
            residuals[i].addr_(column, column, alpha=-1.0 / pivot)
    damage[size] = 0.0
    return NestedOrder(order, np.minimum.accumulate(damage))
