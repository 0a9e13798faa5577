"""Integral kernels: the weights of a layer as nodes of a continuous function, taken at any partition.

Along an axis that a layer integrates over (its inputs) a discrete weight is q_k F(p_k), the quadrature weight times the
value of the kernel; along every other continuous axis it is F(p_k). What is stored are the nodes times the quadrature
weights of the *native* partition, that is the weights of the layer at its native size: `integrate_taps` divides by
these, interpolates, and multiplies by those of the partition asked for. So the native partition gives the stored
weights back under every rule, and a trapezoid rule, whose end weights are half, implies kernels with doubled end
channels.

Both functions give the few entries of a row of the matrix that `KernelSampler` applies along the axes of a weight; its
transpose, which autograd applies, is the backward pass of Lemma 1.

Source: Solodskikh et al., *Integral Neural Networks*, CVPR 2023, section 3 and Lemma 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inn_core.errors import PartitionError
from inn_core.integral.interpolation import Grid, Interpolation, Taps, interpolation_taps
from inn_core.integral.partition import Partition, check_combination, uniform_partition
from inn_core.integral.quadrature import Quadrature


@dataclass(frozen=True)
class KernelSampling:
    """How kernels are evaluated and integrated.

    Raises:
        PartitionError: the trapezoid rule or Simpson's on a cell-centred grid.
    """

    interpolation: Interpolation = Interpolation.CUBIC
    quadrature: Quadrature = Quadrature.RIEMANN
    grid: Grid = Grid.CELL_CENTRED

    def __post_init__(self) -> None:
        check_combination(self.quadrature, self.grid)

    @classmethod
    def parse(cls, text: str) -> KernelSampling:
        """A rule, and after commas in any order an interpolation and a grid, such as `simpson` or `riemann,linear`.

        What is left out is cubic, and the grid that the rule goes with: end-point for the trapezoid rule and
        Simpson's, else cell-centred.

        Raises:
            PartitionError: a word is unknown or said twice, or the rule does not go with the grid.
        """
        rule, *others = (word.strip() for word in text.split(","))
        interpolations, grids = set(others) & set(Interpolation), set(others) & set(Grid)
        known = rule in set(Quadrature) and len(interpolations) <= 1 and len(grids) <= 1
        if not known or len(others) != len(interpolations) + len(grids):
            raise PartitionError(
                f"quadrature '{text}' is not known; write one of {', '.join(Quadrature)}, and after commas one of "
                f"{', '.join(Interpolation)} and one of {', '.join(Grid)}, such as simpson,linear",
                quadrature=text,
            )
        quadrature = Quadrature(rule)
        needs_ends = quadrature in (Quadrature.TRAPEZOID, Quadrature.SIMPSON)
        grid = Grid.END_POINT if needs_ends else Grid.CELL_CENTRED
        return cls(
            Interpolation(next(iter(interpolations), Interpolation.CUBIC)), quadrature, Grid(next(iter(grids), grid))
        )

    def __str__(self) -> str:
        return f"{self.quadrature},{self.interpolation},{self.grid}"


def native_partition(
    n: int,
    sampling: KernelSampling,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Partition:
    """The partition at which a layer with n nodes is its stored weights.

    The uniform partition of n points. Gauss-Legendre points are no node positions; there it is by convention the nodes
    themselves with equal weights.
    """
    gauss = sampling.quadrature is Quadrature.GAUSS_LEGENDRE
    quadrature = Quadrature.RIEMANN if gauss else sampling.quadrature
    return uniform_partition(n, quadrature=quadrature, grid=sampling.grid, dtype=dtype, device=device)


def sample_taps(partition: Partition, n_nodes: int, sampling: KernelSampling) -> Taps:
    """From nodes to values at the points, for an axis that is not integrated over."""
    return interpolation_taps(partition.points, n_nodes, interpolation=sampling.interpolation, grid=sampling.grid)


def integrate_taps(partition: Partition, n_nodes: int, sampling: KernelSampling) -> Taps:
    """From stored weights to weights at the points, for an axis that is integrated over: q_k B_kl / q^native_l."""
    points = partition.points
    native = native_partition(n_nodes, sampling, dtype=torch.float64, device=points.device).weights
    return sample_taps(partition, n_nodes, sampling).scaled(partition.weights, (1 / native).to(points.dtype))
