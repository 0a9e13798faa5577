"""Partitions: the points of [0, 1] at which a kernel is sampled, and the quadrature weight of each.

A partition is uniform (a rule of `quadrature.py`), trained (`TrainablePartition`), or a trained one carried to another
size (`warp`).

Source: Solodskikh et al., *Integral Neural Networks*, CVPR 2023, section 3.3 and Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inn_core.errors import PartitionError
from inn_core.integral.interpolation import Grid, check_count, node_positions
from inn_core.integral.quadrature import (
    Quadrature,
    check_edges,
    check_increasing,
    simpson_weights,
    trapezoid_weights,
    uniform_rule,
    warp_points,
    warped_rule,
)

SUM_ULPS = 64.0
"""Units of rounding by which the sum of weights may differ from 1."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Points and their weights.

    Attributes:
        points: never falling, in [0, 1], float32 or float64, shape `(m,)`.
        weights: sum to 1, shape `(m,)`.

    Raises:
        PartitionError: when made with anything else. The check waits for the device.
    """

    points: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        check_increasing(self.points)
        if self.weights.shape != self.points.shape:
            raise PartitionError(
                f"there are {len(self.points)} points and weights of shape {tuple(self.weights.shape)}; "
                "give one weight for each point",
                points=len(self.points),
                weights=list(self.weights.shape),
            )
        total = float(self.weights.detach().double().sum())
        if not abs(total - 1) <= SUM_ULPS * torch.finfo(self.weights.dtype).eps:
            raise PartitionError(
                f"the weights sum to {total}; they must sum to 1, the length of [0, 1]: divide them by their sum",
                found=str(total),
            )

    def __len__(self) -> int:
        return len(self.points)


def check_combination(quadrature: Quadrature, grid: Grid) -> None:
    """Raise PartitionError for a rule that has no place on a grid."""
    if grid is Grid.CELL_CENTRED and quadrature in (Quadrature.TRAPEZOID, Quadrature.SIMPSON):
        raise PartitionError(
            f"quadrature '{quadrature}' needs points at 0 and 1, and grid '{grid}' has none there; use grid "
            f"'{Grid.END_POINT}', or quadrature '{Quadrature.RIEMANN}' or '{Quadrature.GAUSS_LEGENDRE}'",
            quadrature=str(quadrature),
            grid=str(grid),
        )


def uniform_partition(
    m: int,
    *,
    quadrature: Quadrature = Quadrature.RIEMANN,
    grid: Grid = Grid.CELL_CENTRED,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Partition:
    """The partition of m points that no training has touched.

    RIEMANN has the m node positions of the grid with equal weights (so on an end-point grid the end points count in
    full, unlike in the trapezoid rule). TRAPEZOID and SIMPSON need the end-point grid. GAUSS_LEGENDRE has its own
    points on either grid.

    Returns:
        m points, correctly rounded to the dtype.

    Raises:
        PartitionError: m is below 1, or the rule does not go with the grid.
    """
    check_combination(quadrature, grid)
    points, weights = (torch.from_numpy(part.copy()) for part in uniform_rule(quadrature, m))
    if quadrature is Quadrature.RIEMANN:
        points = node_positions(m, grid, dtype=torch.float64)
    return Partition(points.to(device, dtype), weights.to(device, dtype))


class TrainablePartition(nn.Module):
    """A partition whose density of points is learned.

    Cells have widths delta_norm = delta^2 / sum(delta^2), edges are [0, cumsum(delta_norm)] and end at exactly 1. A
    RIEMANN partition of the cell-centred grid has the middles of m cells, with their widths as weights. On the
    end-point grid, m - 1 cells lie between m points, which are the edges; RIEMANN weights are equal ones pushed through
    the same map, TRAPEZOID and SIMPSON weights those of `quadrature.py`. GAUSS_LEGENDRE points are pushed through the
    map of m cells on either grid. Only ratios of delta matter; delta = 0 closes a cell. A single point whose
    place would be an edge has no delta and stays at 1/2.

    The paper's P = cumsum(delta_norm) starts behind 0: its points are the right edges of the cells. We use middles (or
    the edges with 0), which makes uniform delta the uniform partition of the grid.

    Args:
        delta: float32 or float64, finite, not all 0; shape `(m,)`, or `(m - 1,)` where the points are the edges.
        quadrature, grid: what `uniform` deltas stand for.

    Raises:
        PartitionError: see above, or the rule does not go with the grid.
    """

    def __init__(
        self, delta: Tensor, *, quadrature: Quadrature = Quadrature.RIEMANN, grid: Grid = Grid.CELL_CENTRED
    ) -> None:
        super().__init__()
        check_combination(quadrature, grid)
        self.quadrature = quadrature
        self.grid = grid
        self.delta = nn.Parameter(delta.detach().clone())
        self.edges()

    @classmethod
    def uniform(
        cls,
        m: int,
        *,
        quadrature: Quadrature = Quadrature.RIEMANN,
        grid: Grid = Grid.CELL_CENTRED,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> TrainablePartition:
        """Equal deltas: the partition of `uniform_partition` with m points."""
        check_count(m, "points")
        cells = m - 1 if _points_are_edges(quadrature, grid) else m
        return cls(torch.ones(cells, dtype=dtype, device=device), quadrature=quadrature, grid=grid)

    @classmethod
    def from_edges(
        cls, edges: Tensor, *, quadrature: Quadrature = Quadrature.RIEMANN, grid: Grid = Grid.CELL_CENTRED
    ) -> TrainablePartition:
        """Deltas whose edges are the given ones; dtype of the edges.

        Raises:
            PartitionError: the edges do not rise from exactly 0 to exactly 1.
        """
        check_edges(edges)
        return cls(edges.detach().double().diff().sqrt().to(edges.dtype), quadrature=quadrature, grid=grid)

    def edges(self) -> Tensor:
        """Edges of the cells, shape `(cells + 1,)`, from exactly 0 to exactly 1; never falling.

        Always float64: widths are small differences of edges.

        Raises:
            PartitionError: deltas are NaN, infinite, or all 0.
        """
        if (
            self.delta.ndim != 1
            or (len(self.delta) == 0 and not self._is_fixed())
            or self.delta.dtype not in (torch.float32, torch.float64)
        ):
            raise PartitionError(
                f"delta has shape {tuple(self.delta.shape)} and dtype {self.delta.dtype}; give a vector of at least "
                "one number in float32 or float64",
                shape=list(self.delta.shape),
            )
        if self._is_fixed():
            return torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.delta.device)
        largest = self.delta.detach().abs().max().double()
        if not 0 < float(largest) < float("inf"):  # NaN, too
            raise PartitionError(
                f"the largest |delta| is {float(largest)}; it must be finite and above 0: lower the learning rate, or "
                "start from TrainablePartition.uniform",
                found=str(float(largest)),
            )
        # Dividing by the last sum is delta^2 / sum(delta^2), and rounds to exactly 1 there.
        sums = (self.delta.double() / largest).square().cumsum(0)
        return torch.cat([sums.new_zeros(1), sums / sums[-1]])

    def forward(self) -> Partition:
        """The partition at the present deltas, in their dtype; gradients reach them."""
        if self._is_fixed():
            return uniform_partition(
                1, quadrature=self.quadrature, grid=self.grid, dtype=self.delta.dtype, device=self.delta.device
            )
        edges = self.edges()
        if self.quadrature is Quadrature.GAUSS_LEGENDRE:
            points, weights = warped_rule(uniform_rule(self.quadrature, len(self.delta)), edges)
        elif self.grid is Grid.CELL_CENTRED:
            points, weights = (edges[1:] + edges[:-1]) / 2, edges.diff()
        elif self.quadrature is Quadrature.RIEMANN:
            points = edges
            weights = warped_rule(uniform_rule(self.quadrature, len(edges)), edges)[1]
        else:
            points = edges
            weights = (simpson_weights if self.quadrature is Quadrature.SIMPSON else trapezoid_weights)(edges)
        return Partition(points.to(self.delta.dtype), weights.to(self.delta.dtype))

    def _is_fixed(self) -> bool:
        """Whether there is one point and no cell."""
        return self.delta.shape == (0,) and _points_are_edges(self.quadrature, self.grid)


def warp(
    edges: Tensor,  # shape: (k + 1,)
    m: int,
) -> Tensor:
    """Edges of m cells with the density of points that other edges have.

    The images of i/m under the piecewise linear map that takes i/k to `edges[i]`, so a partition that was tuned at one
    size serves the others. m = k gives the edges back.

    Returns:
        Shape `(m + 1,)`, from exactly 0 to exactly 1, in the dtype of the edges; gradients reach them.

    Raises:
        PartitionError: the edges do not rise from 0 to 1, or m is below 1.
    """
    check_edges(edges)
    check_count(m, "cells")
    return warp_points(edges, node_positions(m + 1, Grid.END_POINT, dtype=torch.float64, device=edges.device))


def _points_are_edges(quadrature: Quadrature, grid: Grid) -> bool:
    return grid is Grid.END_POINT and quadrature is not Quadrature.GAUSS_LEGENDRE
