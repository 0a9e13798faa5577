"""Quadrature: points on [0, 1] and the weight of each, so that weighted sums stand for integrals.

`uniform_rule` gives the classical rules. The other functions give weights to partitions that are not uniform; they are
differentiable, and their weights sum to 1, the length of the interval, as those of the rules do.

Source: Davis and Rabinowitz, *Methods of Numerical Integration*, 2nd ed., 1984, chapter 2; Solodskikh et al., *Integral
Neural Networks*, CVPR 2023, section 3.1.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inn_core.errors import PartitionError
from inn_core.integral.interpolation import Grid, Interpolation, check_count, check_points, interpolation_taps

Rule = tuple[NDArray[np.float64], NDArray[np.float64]]

PLAIN_RATIO = 2.0
"""Neighbouring intervals whose widths differ by more than this factor would get a negative weight from Simpson."""

SINGULAR_RATIO = 1e-6
"""Three intervals of which one is narrower than this share of another are not fitted with a cubic."""


class Quadrature(StrEnum):
    """Rules of numerical integration; with m points they are exact for polynomials up to the degree given.

    RIEMANN: middles of m equal cells, degree 1. TRAPEZOID: end points and equal intervals, degree 1. SIMPSON: the same
    points, degree 3; an even count ends in one 3/8 block, 2 points are the trapezoid. GAUSS_LEGENDRE: degree 2 m - 1.
    One point is at 1/2 with weight 1 in every rule.
    """

    RIEMANN = "riemann"
    TRAPEZOID = "trapezoid"
    SIMPSON = "simpson"
    GAUSS_LEGENDRE = "gauss-legendre"


def uniform_rule(quadrature: Quadrature, m: int) -> Rule:
    """Points and weights of a rule with m points on [0, 1].

    Returns:
        Increasing points and positive weights that sum to 1, float64, shape `(m,)` each; read-only.

    Raises:
        PartitionError: m is below 1.
    """
    check_count(m, "points")
    return _rule(quadrature, m)


def trapezoid_weights(points: Tensor) -> Tensor:
    """Trapezoid rule on increasing points, with the first and last value continued to 0 and 1.

    The continuation is what makes the weights sum to 1 when the points do not begin at 0 and end at 1. Equally, it is
    the width of what lies nearest to each point; on cell centres it gives equal weights.

    Args:
        points: increasing in [0, 1], shape `(m,)`.

    Returns:
        Shape `(m,)`, not negative; sums to 1.

    Raises:
        PartitionError: the points fall somewhere, or leave [0, 1].
    """
    check_increasing(points)
    return _continue_ends(points, _trapezoid(points.diff()))


def simpson_weights(points: Tensor) -> Tensor:
    """Simpson's rule on increasing points: parabolas over pairs of unequal intervals.

    Exact for degree 2, on equal intervals for degree 3, between the first and the last point; their values are
    continued to 0 and 1. With an even count the last three intervals get the cubic through their four points instead.
    Where a weight of a pair or of that block would be negative (a pair whose widths differ by more than a factor of 2),
    the trapezoid rule takes its place; weights jump there, and the gradient does not see the jump.

    Args:
        points: increasing in [0, 1], shape `(m,)`.

    Returns:
        Shape `(m,)`, not negative; sums to 1.

    Raises:
        PartitionError: the points fall somewhere, or leave [0, 1].

    Source: the three-point formula for unequal intervals; Easa, J. Surveying Engineering 114(4), 1988.
    """
    check_increasing(points)
    widths = points.diff()
    if len(widths) < 2:
        return _continue_ends(points, _trapezoid(widths))
    end = len(widths) - 3 if len(widths) % 2 else len(widths)  # intervals in pairs
    first, second = widths[:end:2], widths[1:end:2]
    fits = (second <= PLAIN_RATIO * first) & (first <= PLAIN_RATIO * second) & (first > 0)
    one = torch.ones_like(first)
    ratio = torch.where(fits, second, one) / torch.where(fits, first, one)
    length = first + second
    left = torch.where(fits, length * (2 - ratio) / 6, first / 2)
    right = torch.where(fits, length * (2 - 1 / ratio) / 6, second / 2)
    middle = length - left - right
    weights = torch.zeros_like(points)
    index = torch.arange(0, end, 2, device=points.device)
    for shift, part in enumerate((left, middle, right)):
        weights = weights.index_add(0, index + shift, part)
    if end < len(widths):
        weights = weights.index_add(0, torch.arange(end, end + 4, device=points.device), _block(widths[end:]))
    return _continue_ends(points, weights)


def warped_rule(reference: Rule, edges: Tensor) -> tuple[Tensor, Tensor]:
    """A rule pushed through the piecewise linear map that takes i/k to `edges[i]`.

    Points are the images of the rule's points. A weight is the rule's weight times the slope of the map, averaged over
    the part of [0, 1] that the point stands for (between the running sums of the rule's weights; for Gauss-Legendre
    these separate the points, Szego 1939, section 3.41). The mean in place of the slope at the point makes the weights
    sum to 1 whatever the map. Uniform edges give the rule itself.

    Args:
        reference: points and weights on [0, 1], shape `(m,)` each.
        edges: increasing from 0 to 1, shape `(k + 1,)`.

    Returns:
        Points and weights, shape `(m,)`, not negative, on the device and in the dtype of the edges.

    Raises:
        PartitionError: the edges do not rise from 0 to 1.
    """
    check_edges(edges)
    points, weights = (torch.from_numpy(part.copy()).to(edges.device) for part in reference)
    shares = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
    shares = shares / shares[-1]
    return warp_points(edges, points), warp_points(edges, shares).diff()


def warp_points(edges: Tensor, points: Tensor) -> Tensor:
    """Images of points under the piecewise linear map that takes i/k to `edges[i]`; dtype of the edges.

    Points that never fall have images that never fall, in spite of rounding.
    """
    taps = interpolation_taps(
        points.to(torch.float64), len(edges), interpolation=Interpolation.LINEAR, grid=Grid.END_POINT
    )
    lower, upper = edges[taps.nodes].unbind(1)
    images = lower + taps.coefficients[:, 1].to(edges.dtype) * (upper - lower)
    return torch.where(images > upper, upper, images)  # rounding must not make the map fall between cells


def check_increasing(points: Tensor) -> None:
    """Raise PartitionError unless the points are a vector in [0, 1] that never falls."""
    check_points(points)
    falls = (points.detach().diff() < 0).nonzero()
    if len(falls):
        index = int(falls[0]) + 1
        found, before = float(points[index].detach()), float(points[index - 1].detach())
        raise PartitionError(
            f"point {index} is {found}, below the {before} before it; points of a partition increase: sort them",
            index=index,
            found=found,
        )


def check_edges(edges: Tensor) -> None:
    """Raise PartitionError unless the edges rise from exactly 0 to exactly 1."""
    check_increasing(edges)
    first, last = float(edges[0].detach()), float(edges[-1].detach())
    if len(edges) < 2 or first != 0.0 or last != 1.0:
        raise PartitionError(
            f"{len(edges)} edges run from {first} to {last}; give at least 2, from exactly 0 to exactly 1",
            first=first,
            last=last,
        )


@lru_cache(maxsize=256)
def _rule(quadrature: Quadrature, m: int) -> Rule:
    if quadrature is Quadrature.RIEMANN or m == 1:
        points, weights = (np.arange(m) + 0.5) / m, np.full(m, 1.0 / m)
    elif quadrature is Quadrature.GAUSS_LEGENDRE:
        points, weights = _gauss_legendre(m)
    else:
        points = np.arange(m) / (m - 1)
        weights = _composite_simpson(m) if quadrature is Quadrature.SIMPSON else np.ones(m)
        if quadrature is Quadrature.TRAPEZOID:
            weights[[0, -1]] = 0.5
        weights = weights / weights.sum()
    points.flags.writeable = weights.flags.writeable = False
    return points, weights


def _composite_simpson(m: int) -> NDArray[np.float64]:
    """Weights in units of the spacing for m >= 2 points."""
    if m == 2:
        return np.array([0.5, 0.5])
    weights = np.zeros(m)
    paired = m if m % 2 else m - 3
    for start in range(0, paired - 1, 2):
        weights[start : start + 3] += np.array([1.0, 4.0, 1.0]) / 3
    if paired < m:
        weights[-4:] += np.array([3.0, 9.0, 9.0, 3.0]) / 8
    return weights


def _gauss_legendre(m: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Newton's method on the Legendre polynomial, all roots at once: O(m^2), where an eigenvalue solve takes O(m^3).

    Source: Davis and Rabinowitz, appendix 3; start values with the error term of Tricomi, 1950.
    """
    k = np.arange(1, m + 1)
    roots = (1 - (m - 1) / (8.0 * m**3)) * np.cos(np.pi * (4 * k - 1) / (4 * m + 2))
    for _ in range(6):  # the error is squared every time; from 1e-3, four steps are enough
        before, here = np.ones(m), roots
        for degree in range(2, m + 1):
            before, here = here, ((2 * degree - 1) * roots * here - (degree - 1) * before) / degree
        slope = m * (before - roots * here) / (1 - roots**2)
        step = here / slope
        roots = roots - step
        if np.abs(step).max() < 1e-15:
            break
    weights = 1 / ((1 - roots**2) * slope**2)
    points, weights = (roots[::-1] + 1) / 2, weights[::-1] / weights.sum()
    # Rounding leaves the two halves of the interval slightly different; they mirror each other.
    return (points + (1 - points[::-1])) / 2, (weights + weights[::-1]) / 2


def _trapezoid(widths: Tensor) -> Tensor:
    zero = widths.new_zeros(1)
    return (torch.cat([widths, zero]) + torch.cat([zero, widths])) / 2


def _continue_ends(points: Tensor, weights: Tensor) -> Tensor:
    """Add to the first and the last weight what lies before the first and behind the last point."""
    index = torch.tensor([0, len(points) - 1], device=points.device)
    return weights.index_add(0, index, torch.stack([points[0], 1 - points[-1]]))


def _block(widths: Tensor) -> Tensor:
    """Weights of four points from the cubic through them; of the trapezoid rule where one would be negative."""
    plain = _trapezoid(widths)
    if float(widths.detach().min()) <= SINGULAR_RATIO * float(widths.detach().max()):
        return plain
    length = widths.sum()
    inner = (widths.cumsum(0) / length)[:2].double()
    places = torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])
    powers = torch.stack([places**power for power in range(4)])
    moments = 1 / torch.arange(1, 5, dtype=powers.dtype, device=powers.device)
    fitted = length * torch.linalg.solve(powers, moments).to(widths.dtype)
    return plain if bool((fitted.detach() < 0).any()) else fitted
