"""Integral kernels: the weights of a layer as nodes of a continuous function, discretized at any partition.

Along an axis that a layer integrates over (its inputs) a discrete weight is q_k F(p_k), the quadrature weight times the
value of the kernel. What is stored are the nodes times the quadrature weights of the *native* partition, that is the
weights of the layer at its native size; `discretize` divides by these, interpolates, and multiplies by those of the
partition asked for. So the native partition gives the stored weights back under every rule, and a trapezoid rule, whose
end weights are half, implies kernels with doubled end channels.

Source: Solodskikh et al., *Integral Neural Networks*, CVPR 2023, section 3 and Lemma 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import torch
from torch import Tensor

from inn_core.errors import PartitionError
from inn_core.integral.interpolation import Grid, Interpolation, Taps, check_count, interpolation_taps, node_positions
from inn_core.integral.partition import Partition, check_combination, uniform_partition
from inn_core.integral.quadrature import Quadrature

Entry = TypeVar("Entry")

REFIT_POINTS = 4
"""Points per node at which `resample` compares the old kernel and the new."""


class AxisKind(StrEnum):
    """What an axis of a weight is to its layer.

    DISCRETE: keeps its size (classes, taps of a filter). SAMPLED: continuous, not integrated over (output channels,
    biases). INTEGRATED: continuous, and summed over by the layer (input channels).
    """

    DISCRETE = "discrete"
    SAMPLED = "sampled"
    INTEGRATED = "integrated"


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


def sample_matrix(partition: Partition, n_nodes: int, sampling: KernelSampling) -> Tensor:
    """Dense form of `sample_taps`, shape `(n_points, n_nodes)`; rows sum to 1."""
    return sample_taps(partition, n_nodes, sampling).matrix()


def integrate_matrix(partition: Partition, n_nodes: int, sampling: KernelSampling) -> Tensor:
    """Dense form of `integrate_taps`, shape `(n_points, n_nodes)`; the identity at the native partition."""
    return integrate_taps(partition, n_nodes, sampling).matrix()


@dataclass(frozen=True, eq=False)
class IntegralKernel:
    """The kernel of one weight.

    Attributes:
        nodes: values at the nodes times the native quadrature weights of the integrated axes, floating point, any
            device, n nodes along each axis; may be a parameter.
        continuous: the kind of every axis.
        sampling: for all continuous axes.

    Raises:
        PartitionError: when made with another number of kinds than axes.
    """

    nodes: Tensor
    continuous: tuple[AxisKind, ...]
    sampling: KernelSampling = field(default_factory=KernelSampling)

    def __post_init__(self) -> None:
        if len(self.continuous) != self.nodes.ndim:
            raise PartitionError(
                f"nodes of shape {tuple(self.nodes.shape)} have {self.nodes.ndim} axes, and {len(self.continuous)} "
                "kinds are given; give one for each axis",
                shape=list(self.nodes.shape),
            )

    @classmethod
    def from_weights(
        cls,
        weights: Tensor,
        continuous: Sequence[AxisKind],
        *,
        sampling: KernelSampling | None = None,
        n_nodes: Sequence[int | None] | None = None,
    ) -> IntegralKernel:
        """The kernel of a discrete layer.

        Args:
            weights: of the layer.
            continuous: the kind of every axis.
            sampling: cubic, Riemann, cell-centred when not given.
            n_nodes: count along every axis, None for as many as there are weights. With None everywhere the kernel
                gives the weights back exactly at its native size; other counts are fitted (`resample`).

        Raises:
            PartitionError: a count is below 1 or given for a discrete axis.
        """
        sampling = sampling or KernelSampling()
        kernel = cls(weights, tuple(continuous), sampling)
        for axis, count in enumerate(kernel._one_each(n_nodes if n_nodes is not None else [None] * weights.ndim)):
            if count is not None:
                kind = kernel.continuous[axis]
                kernel = cls(
                    resample(kernel.nodes, axis, count, kind=kind, sampling=sampling), kernel.continuous, sampling
                )
        return kernel

    def discretize(self, partitions: Sequence[Partition | None]) -> Tensor:
        """The weights of the layer at given partitions.

        The axis that shrinks most goes first. Gradients reach the nodes, and points and weights of the partitions.

        Args:
            partitions: one for each axis, of any number of points; None on discrete axes and where a continuous axis
                keeps its native size.

        Returns:
            Weights in the dtype of the nodes; the nodes themselves when every partition is None.

        Raises:
            PartitionError: there is not one partition for each axis, or one on a discrete axis.
        """
        result = self.nodes
        for axis, taps in self._contractions(partitions):
            result = taps.apply(result, axis)
        return result

    def discretize_adjoint(self, gradient: Tensor, partitions: Sequence[Partition | None]) -> Tensor:
        """From the gradient of the discrete weights to that of the nodes, without autograd.

        By Lemma 1 of the paper the backward pass of a discretized layer is the integral operator with the kernel
        dF/dlambda (here: the interpolation's coefficients) and the same quadrature: the transposed matrices.

        Args:
            gradient: shape of what `discretize` returns for the same partitions.

        Returns:
            Gradient of the nodes, in their shape; it has no graph.

        Raises:
            PartitionError: as `discretize`.
        """
        with torch.no_grad():
            result = gradient
            for axis, taps in reversed(self._contractions(partitions)):
                result = taps.apply_transposed(result, axis)
            return result

    def _contractions(self, partitions: Sequence[Partition | None]) -> list[tuple[int, Taps]]:
        """Axes and their matrices in the order of contraction."""
        found: list[tuple[int, Taps]] = []
        for axis, partition in enumerate(self._one_each(partitions)):
            if partition is None:
                continue
            kind, n_nodes = self.continuous[axis], self.nodes.shape[axis]
            if kind is AxisKind.DISCRETE:
                raise _discrete_axis(axis)
            taps = integrate_taps if kind is AxisKind.INTEGRATED else sample_taps
            found.append((axis, taps(partition, n_nodes, self.sampling)))
        return sorted(found, key=lambda entry: len(entry[1].nodes) / entry[1].n_nodes)

    def _one_each(self, items: Sequence[Entry]) -> Sequence[Entry]:
        if len(items) != self.nodes.ndim:
            raise PartitionError(
                f"{len(items)} entries are given for the {self.nodes.ndim} axes of a kernel; give one for each axis, "
                "None where nothing changes",
                found=len(items),
                axes=self.nodes.ndim,
            )
        return items


def resample(
    nodes: Tensor,
    axis: int,
    m: int,
    *,
    kind: AxisKind = AxisKind.SAMPLED,
    sampling: KernelSampling | None = None,
) -> Tensor:
    """Refit nodes to another count along an axis: the kernel that is closest in mean square over [0, 1].

    Exact for kernels that m nodes can represent, so for polynomials of the interpolation's degree; m = n gives the
    nodes back to rounding.

    Args:
        nodes: of the kernel, n along the axis.
        axis: a continuous one.
        m: new count.
        kind: INTEGRATED keeps the integral: nodes are taken as stored, times native quadrature weights.
        sampling: cubic, Riemann, cell-centred when not given.

    Returns:
        m nodes along the axis, dtype of the nodes; gradients reach the nodes.

    Raises:
        PartitionError: m is below 1 or the axis is discrete.
    """
    check_count(m, "nodes")
    if kind is AxisKind.DISCRETE:
        raise _discrete_axis(axis)
    sampling = sampling or KernelSampling()
    axis = axis % nodes.ndim
    n = nodes.shape[axis]
    points = node_positions(REFIT_POINTS * max(n, m), Grid.CELL_CENTRED, dtype=torch.float64, device=nodes.device)
    old, new = (
        interpolation_taps(points, count, interpolation=sampling.interpolation, grid=sampling.grid) for count in (n, m)
    )
    # Normal equations: interpolation is local, so they are well conditioned at any size.
    gram, cross = (new.apply_transposed(taps.matrix(), 0) for taps in (new, old))
    refit = torch.cholesky_solve(cross, torch.linalg.cholesky(gram))
    if kind is AxisKind.INTEGRATED:
        before, after = (
            native_partition(count, sampling, dtype=torch.float64, device=nodes.device).weights for count in (n, m)
        )
        refit = after[:, None] * refit / before
    result: Tensor = torch.tensordot(refit, nodes.double(), dims=([1], [axis])).movedim(0, axis)
    return result.to(nodes.dtype)


def _discrete_axis(axis: int) -> PartitionError:
    return PartitionError(
        f"axis {axis} is discrete and keeps its size; give None for it, or declare it '{AxisKind.SAMPLED}' or "
        f"'{AxisKind.INTEGRATED}'",
        axis=axis,
    )
