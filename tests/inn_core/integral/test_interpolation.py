"""One contract for every interpolation on every grid, and Keys' kernel against its definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline, make_interp_spline

from inn_core.errors import PartitionError
from inn_core.integral.interpolation import (
    Grid,
    Interpolation,
    interpolation_taps,
    node_positions,
)

EXACT = 1e-12  # rounding of float64, at sizes up to a few hundred
SINGLE = 1e-6  # rounding of float32 for values up to about 1
DEGREE = {Interpolation.LINEAR: 1, Interpolation.CUBIC: 2}
ORDER = {Interpolation.LINEAR: 2, Interpolation.CUBIC: 3}
ALL = list(itertools.product(Interpolation, Grid))
patient = settings(deadline=None)  # a shared machine may stop for longer than any deadline
every = pytest.mark.parametrize(("interpolation", "grid"), ALL)
sizes = st.integers(1, 40)
point_lists = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def values(
    nodes: NDArray[np.float64], points: NDArray[np.float64], interpolation: Interpolation, grid: Grid
) -> NDArray:
    matrix = interpolation_taps(torch.from_numpy(points), len(nodes), interpolation=interpolation, grid=grid).matrix()
    return matrix.numpy() @ nodes


def positions(n: int, grid: Grid) -> NDArray[np.float64]:
    return node_positions(n, grid, dtype=torch.float64).numpy()


@pytest.mark.parametrize(
    ("grid", "expected"), [(Grid.CELL_CENTRED, [1 / 8, 3 / 8, 5 / 8, 7 / 8]), (Grid.END_POINT, [0, 1 / 3, 2 / 3, 1])]
)
def test_nodes_lie_where_the_grid_says(grid: Grid, expected: list[float]) -> None:
    assert positions(4, grid).tolist() == pytest.approx(expected, abs=EXACT)
    assert positions(1, grid).tolist() == [0.5]


@every
@patient
@given(n=sizes, points=point_lists)
def test_rows_sum_to_one(interpolation: Interpolation, grid: Grid, n: int, points: list[float]) -> None:
    matrix = interpolation_taps(
        torch.tensor(points, dtype=torch.float64), n, interpolation=interpolation, grid=grid
    ).matrix()
    assert matrix.shape == (len(points), n)
    assert torch.allclose(matrix.sum(1), torch.ones(len(points), dtype=torch.float64), rtol=0, atol=EXACT)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 48, 513, 2048])
def test_node_positions_give_exactly_the_identity(
    interpolation: Interpolation, grid: Grid, dtype: torch.dtype, n: int
) -> None:
    matrix = interpolation_taps(
        node_positions(n, grid, dtype=dtype), n, interpolation=interpolation, grid=grid
    ).matrix()
    assert matrix.dtype == dtype
    assert torch.equal(matrix, torch.eye(n, dtype=dtype))


@every
@patient
@given(n=sizes, points=point_lists, coefficients=st.tuples(*[st.floats(-1, 1)] * 3))
def test_polynomials_of_the_degree_are_exact_on_all_of_the_interval(
    interpolation: Interpolation, grid: Grid, n: int, points: list[float], coefficients: tuple[float, ...]
) -> None:
    polynomial = np.polynomial.Polynomial(coefficients[: min(n, DEGREE[interpolation] + 1)])
    where = np.array(points)
    found = values(polynomial(positions(n, grid)), where, interpolation, grid)
    assert found == pytest.approx(polynomial(where), abs=1e-10)


@every
def test_the_next_degree_is_not_exact(interpolation: Interpolation, grid: Grid) -> None:
    power = DEGREE[interpolation] + 1
    found = values(positions(7, grid) ** power, np.linspace(0, 1, 50), interpolation, grid)
    assert np.abs(found - np.linspace(0, 1, 50) ** power).max() > 1e-4


@every
def test_error_falls_at_the_rate_of_the_rule(interpolation: Interpolation, grid: Grid) -> None:
    where = np.linspace(0, 1, 1001)
    counts = np.array([32, 64, 128, 256])
    errors = [
        np.abs(values(np.sin(7 * positions(n, grid)), where, interpolation, grid) - np.sin(7 * where)).max()
        for n in counts
    ]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -slope == pytest.approx(ORDER[interpolation], abs=0.3)


@pytest.mark.parametrize("grid", Grid)
def test_linear_is_the_linear_spline_of_scipy(grid: Grid) -> None:
    random = np.random.default_rng(0)
    nodes, where = random.normal(size=9), random.random(40)
    spline = make_interp_spline(positions(9, grid), nodes, k=1)
    assert values(nodes, where, Interpolation.LINEAR, grid) == pytest.approx(spline(where), abs=EXACT)


@pytest.mark.parametrize("grid", Grid)
def test_cubic_between_inner_nodes_is_the_hermite_spline_with_central_differences(grid: Grid) -> None:
    """Keys (1981): with a = -1/2 cubic convolution has the slopes (c_{j+1} - c_{j-1}) / 2h at the nodes."""
    random = np.random.default_rng(1)
    at, nodes = positions(12, grid), random.normal(size=12)
    spline = CubicHermiteSpline(at[1:-1], nodes[1:-1], (nodes[2:] - nodes[:-2]) / (at[2:] - at[:-2]))
    where = random.uniform(at[1], at[-2], 60)
    assert values(nodes, where, Interpolation.CUBIC, grid) == pytest.approx(spline(where), abs=EXACT)


@pytest.mark.parametrize("grid", Grid)
@pytest.mark.parametrize("n", [4, 5, 9])
def test_cubic_border_is_keys_kernel_over_ghost_nodes(grid: Grid, n: int) -> None:
    random = np.random.default_rng(2)
    at, nodes, where = positions(n, grid), random.normal(size=n), random.random(80)
    step = at[1] - at[0]
    ghosts = list(nodes)
    for _ in range(2):
        ghosts = [3 * ghosts[0] - 3 * ghosts[1] + ghosts[2], *ghosts, 3 * ghosts[-1] - 3 * ghosts[-2] + ghosts[-3]]
    distance = np.abs((where[:, None] - (at[0] + step * np.arange(-2, n + 2))) / step)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    kernel = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    assert values(nodes, where, Interpolation.CUBIC, grid) == pytest.approx(kernel @ np.array(ghosts), abs=1e-10)


@every
@pytest.mark.parametrize("n", [1, 2, 3, 4, 10])
def test_gradients_reach_the_points(interpolation: Interpolation, grid: Grid, n: int) -> None:
    points = torch.tensor([0.013, 0.31, 0.48, 0.77, 0.985], dtype=torch.float64, requires_grad=True)

    def matrix(where: torch.Tensor) -> torch.Tensor:
        return interpolation_taps(where, n, interpolation=interpolation, grid=grid).matrix()

    assert torch.autograd.gradcheck(matrix, (points,))


def test_a_point_on_a_node_keeps_its_gradient() -> None:
    """Of the parabola through the nodes of x^2: 2x."""
    points = node_positions(8, Grid.CELL_CENTRED, dtype=torch.float64).requires_grad_()
    (interpolation_taps(points, 8).matrix() @ points.detach().square()).sum().backward()
    assert torch.allclose(points.grad, 2 * points.detach(), rtol=0, atol=EXACT)


@every
@pytest.mark.parametrize("shape", [(6,), (6, 4), (3, 6), (3, 6, 2, 2)])
def test_taps_are_the_matrix_and_their_transpose_its_transpose(
    interpolation: Interpolation, grid: Grid, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(3)
    taps = interpolation_taps(
        torch.rand(9, dtype=torch.float64, generator=generator), 6, interpolation=interpolation, grid=grid
    )
    axis, matrix = shape.index(6), taps.matrix().numpy()
    data = torch.randn(shape, dtype=torch.float64, generator=generator)
    expected = np.moveaxis(np.tensordot(matrix, data.numpy(), (1, axis)), 0, axis)
    assert taps.apply(data, axis).numpy() == pytest.approx(expected, abs=EXACT)


@every
def test_taps_are_few_and_follow_the_dtype_of_the_values(interpolation: Interpolation, grid: Grid) -> None:
    taps = interpolation_taps(torch.rand(50), 30, interpolation=interpolation, grid=grid)
    assert taps.nodes.shape[1] == (2 if interpolation is Interpolation.LINEAR else 4)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        ones = torch.ones(30, 3, dtype=dtype)
        assert taps.apply(ones, 0).dtype == dtype
        assert torch.allclose(taps.apply(ones, 0).float(), torch.ones(50, 3), rtol=0, atol=2e-2)


@pytest.mark.parametrize("bad", [-0.1, 1.0001, float("nan"), float("inf")])
def test_a_point_outside_the_interval_is_refused_with_its_value(bad: float) -> None:
    with pytest.raises(PartitionError, match=r"point 1 is .*\[0, 1\]"):
        interpolation_taps(torch.tensor([0.5, bad]), 4).matrix()


@pytest.mark.parametrize("points", [torch.rand(2, 2), torch.rand(0), torch.tensor([1]), torch.rand(2).bfloat16()])
def test_what_is_no_vector_of_points_is_refused(points: torch.Tensor) -> None:
    with pytest.raises(PartitionError, match="float32 or float64"):
        interpolation_taps(points, 4).matrix()


def test_no_nodes_are_refused() -> None:
    with pytest.raises(PartitionError, match="found 0 nodes"):
        interpolation_taps(torch.rand(3), 0).matrix()
    with pytest.raises(PartitionError, match="found 0 nodes"):
        node_positions(0, Grid.END_POINT)
