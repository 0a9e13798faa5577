"""Interpolation: from the nodes of an integral kernel to its value at any point of [0, 1].

Every value is a sum over at most four neighbouring nodes, so the matrix from nodes to values is stored as *taps*: for
each point the nodes it reads and their coefficients. Coefficients are polynomials of the point and carry gradients to
it.

Source: Keys, *Cubic convolution interpolation for digital image processing*, IEEE Trans. ASSP 29(6), 1981, with
a = -1/2; Solodskikh et al., *Integral Neural Networks*, CVPR 2023, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from inn_core.errors import PartitionError

SNAP_ULPS = 4.0
"""A point this many units of rounding from a node is that node, so that the native partition gives the nodes back."""

# Coefficients of nodes 0, 1, 2, 3 of a window in powers of u, the point's distance from node 0. Rows: powers 0 to 3.
# Between nodes 1 and 2 it is Keys' kernel. Outside of them one more node on each side is needed, and Keys' border
# condition c_-1 = 3 c_0 - 3 c_1 + c_2 puts it on the parabola through the first three; Keys' kernel is exact for
# parabolas, so the value is that of the parabola itself, however far out.
_PARABOLA_FIRST = [[1.0, 0.0, 0.0, 0.0], [-1.5, 2.0, -0.5, 0.0], [0.5, -1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]
_KEYS = [[2.0, -3.0, 3.0, -1.0], [-4.0, 9.5, -8.0, 2.5], [2.5, -7.0, 6.5, -2.0], [-0.5, 1.5, -1.5, 0.5]]
_PARABOLA_LAST = [[0.0, 3.0, -3.0, 1.0], [0.0, -2.5, 4.0, -1.5], [0.0, 0.5, -1.0, 0.5], [0.0, 0.0, 0.0, 0.0]]


class Interpolation(StrEnum):
    """How values between nodes are found.

    LINEAR is exact for degree 1, its error falls with the square of the spacing. CUBIC, Keys' cubic convolution with
    a = -1/2, is exact for degree 2, its error falls with the cube.
    """

    LINEAR = "linear"
    CUBIC = "cubic"


class Grid(StrEnum):
    """Where n nodes lie: CELL_CENTRED at (i + 1/2)/n, END_POINT at i/(n - 1) (one node: at 1/2)."""

    CELL_CENTRED = "cell-centred"
    END_POINT = "end-point"


@dataclass(frozen=True, eq=False)
class Taps:
    """A matrix of shape `(n_points, n_nodes)` with few entries in a row.

    Attributes:
        nodes: columns of the entries, int64, shape `(n_points, n_taps)`; no column twice in a row.
        coefficients: the entries, shape `(n_points, n_taps)`.
        n_nodes: number of columns.
    """

    nodes: Tensor
    coefficients: Tensor
    n_nodes: int

    def matrix(self) -> Tensor:
        """The dense matrix."""
        zeros = self.coefficients.new_zeros(len(self.nodes), self.n_nodes)
        return zeros.scatter(1, self.nodes, self.coefficients)

    def scaled(self, rows: Tensor, columns: Tensor) -> Taps:
        """The matrix with every row and every column multiplied by a number.

        Args:
            rows: shape `(n_points,)`.
            columns: shape `(n_nodes,)`.
        """
        return Taps(self.nodes, self.coefficients * rows[:, None] * columns[self.nodes], self.n_nodes)

    def apply(self, values: Tensor, axis: int) -> Tensor:
        """The matrix times `values` along an axis; gradients reach the values and the coefficients.

        Args:
            values: floating point, `n_nodes` along the axis.
            axis: not negative.

        Returns:
            `n_points` along the axis; dtype of the values.
        """
        coefficients = self.coefficients.to(values.dtype)
        if axis == 0 and values.ndim > 1:
            rows = embedding_bag(self.nodes, values.flatten(1), per_sample_weights=coefficients, mode="sum")
            return rows.reshape(len(self.nodes), *values.shape[1:])
        along = (-1,) + (1,) * (values.ndim - 1 - axis)
        result = values.index_select(axis, self.nodes[:, 0]) * coefficients[:, 0].view(along)
        for tap in range(1, self.nodes.shape[1]):
            result = result + values.index_select(axis, self.nodes[:, tap]) * coefficients[:, tap].view(along)
        return result


def node_positions(
    n: int, grid: Grid, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Positions of n nodes in [0, 1], correctly rounded.

    Raises:
        PartitionError: n is below 1.
    """
    check_count(n, "nodes")
    index = torch.arange(n, dtype=torch.float64, device=device)
    if grid is Grid.CELL_CENTRED or n == 1:
        return ((index + 0.5) / n).to(dtype)
    return (index / (n - 1)).to(dtype)


def interpolation_taps(
    points: Tensor,  # shape: (n_points,)
    n_nodes: int,
    *,
    interpolation: Interpolation = Interpolation.CUBIC,
    grid: Grid = Grid.CELL_CENTRED,
) -> Taps:
    """What every point reads of the nodes.

    The coefficients of a point sum to 1; at a node they are 1 for it and 0 for the others. Linear interpolation is
    exact for degree 1 and cubic for degree 2 on all of [0, 1], outside the outermost nodes of a cell-centred grid, too.
    Two nodes give a line, one a constant.

    Args:
        points: in [0, 1], float32 or float64, in any order; may have a gradient. The gradient at a node is one-sided
            for linear interpolation.
        n_nodes: at least 1.
        interpolation: degree.
        grid: where the nodes lie.

    Returns:
        Taps on the points' device and dtype.

    Raises:
        PartitionError: a point is outside [0, 1] or NaN, the dtype is another, or `n_nodes` is below 1.
    """
    check_points(points)
    check_count(n_nodes, "nodes")
    place = points.double() * n_nodes - 0.5 if grid is Grid.CELL_CENTRED else points.double() * (n_nodes - 1)
    nearest = place.detach().round()
    tolerance = SNAP_ULPS * torch.finfo(points.dtype).eps * n_nodes
    on_node = (place.detach() - nearest).abs() <= tolerance
    place = place + torch.where(on_node, nearest - place.detach(), 0.0)  # the gradient is that of the place
    width = min(n_nodes, 4 if interpolation is Interpolation.CUBIC else 2)
    before = (width - 1) // 2  # nodes of the window before the interval of the point
    start = (place.detach().floor() - before).clamp(0, n_nodes - width)
    offsets = place - start
    nodes = start.long()[:, None] + torch.arange(width, device=points.device)
    return Taps(nodes, _coefficients(offsets, width).to(points.dtype), n_nodes)


def check_count(n: int, what: str) -> None:
    """Raise PartitionError unless n is at least 1."""
    if n < 1:
        raise PartitionError(f"found {n} {what}; at least 1 is needed", what=what, found=n)


def check_points(points: Tensor) -> None:
    """Raise PartitionError unless the points are a float32 or float64 vector inside [0, 1]. Waits for the device."""
    if points.ndim != 1 or len(points) == 0 or points.dtype not in (torch.float32, torch.float64):
        raise PartitionError(
            f"points have shape {tuple(points.shape)} and dtype {points.dtype}; give a vector of at least one point in "
            "float32 or float64",
            shape=list(points.shape),
        )
    inside = (points >= 0) & (points <= 1)
    if not bool(inside.all()):
        index = int((~inside).nonzero()[0])
        found = float(points[index].detach())
        raise PartitionError(
            f"point {index} is {found}; points lie in [0, 1]: scale or clamp them first", index=index, found=str(found)
        )


def _coefficients(offsets: Tensor, width: int) -> Tensor:
    """Coefficients of the nodes of a window for points at a distance from its first node; shape `(n_points, width)`."""
    if width == 1:
        return torch.ones_like(offsets)[:, None]
    if width == 2:
        return torch.stack([1 - offsets, offsets], 1)
    if width == 3:
        return torch.stack([(offsets - 1) * (offsets - 2) / 2, offsets * (2 - offsets), offsets * (offsets - 1) / 2], 1)
    powers = offsets[:, None] ** torch.arange(4, device=offsets.device)
    tables = torch.tensor([_PARABOLA_FIRST, _KEYS, _PARABOLA_LAST], dtype=offsets.dtype, device=offsets.device)
    at = offsets.detach()
    where = torch.where(at < 1, 0, torch.where(at > 2, 2, 1))
    return (powers @ tables)[where, torch.arange(len(offsets), device=offsets.device)]
