"""Partitions: uniform, trained, warped, random and nested."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inn_core.errors import PartitionError
from inn_core.integral.interpolation import Grid, node_positions
from inn_core.integral.partition import (
    Partition,
    TrainablePartition,
    uniform_partition,
    warp,
)
from inn_core.integral.quadrature import Quadrature

EXACT = 1e-12
SINGLE = 2e-6  # rounding of float32 at 1, in sums
COMBINATIONS = [
    (quadrature, grid)
    for quadrature, grid in itertools.product(Quadrature, Grid)
    if grid is Grid.END_POINT or quadrature in (Quadrature.RIEMANN, Quadrature.GAUSS_LEGENDRE)
]
REFUSED = sorted(set(itertools.product(Quadrature, Grid)) - set(COMBINATIONS))
every = pytest.mark.parametrize(("quadrature", "grid"), COMBINATIONS)
patient = settings(deadline=None, max_examples=40)  # a shared machine may stop for longer than any deadline


def check_partition(partition: Partition, m: int, tolerance: float) -> None:
    assert partition.points.shape == partition.weights.shape == (m,)
    assert len(partition) == m
    assert float(partition.points.detach().diff().clamp(max=0).sum()) == 0
    assert float(partition.points.detach()[0]) >= 0
    assert float(partition.points.detach()[-1]) <= 1
    assert float(partition.weights.detach().min()) >= 0
    assert float(partition.weights.detach().double().sum()) == pytest.approx(1, abs=tolerance)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [1, 2, 3, 6, 9, 500])
def test_uniform_partitions_keep_the_contract(quadrature: Quadrature, grid: Grid, m: int, dtype: torch.dtype) -> None:
    partition = uniform_partition(m, quadrature=quadrature, grid=grid, dtype=dtype)
    assert partition.points.dtype == partition.weights.dtype == dtype
    check_partition(partition, m, SINGLE if dtype == torch.float32 else EXACT)


@pytest.mark.parametrize("grid", Grid)
def test_riemann_has_equal_weights_at_the_nodes_of_the_grid(grid: Grid) -> None:
    partition = uniform_partition(7, quadrature=Quadrature.RIEMANN, grid=grid)
    assert torch.equal(partition.points, node_positions(7, grid))
    assert partition.weights.tolist() == pytest.approx([1 / 7] * 7)


def test_trapezoid_has_half_weights_at_the_ends() -> None:
    partition = uniform_partition(5, quadrature=Quadrature.TRAPEZOID, grid=Grid.END_POINT)
    assert partition.points.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert partition.weights.tolist() == [0.125, 0.25, 0.25, 0.25, 0.125]


@pytest.mark.parametrize(("quadrature", "grid"), REFUSED)
def test_rules_with_end_points_are_refused_on_cell_centres(quadrature: Quadrature, grid: Grid) -> None:
    assert len(REFUSED) == 2
    for make in (uniform_partition, TrainablePartition.uniform):
        with pytest.raises(PartitionError, match="use grid 'end-point', or quadrature 'riemann'"):
            make(4, quadrature=quadrature, grid=grid)


@every
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 8, 2048])
def test_equal_deltas_are_the_uniform_partition(quadrature: Quadrature, grid: Grid, m: int) -> None:
    partition = TrainablePartition.uniform(m, quadrature=quadrature, grid=grid)()
    expected = uniform_partition(m, quadrature=quadrature, grid=grid)
    assert torch.allclose(partition.points, expected.points, rtol=0, atol=1e-7)
    assert torch.allclose(partition.weights, expected.weights, rtol=1e-5, atol=0)


deltas = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**100), 2.0**100, width=32)).filter(np.any)


@every
@patient
@given(delta=deltas)
def test_any_delta_gives_increasing_edges_that_end_at_one(
    quadrature: Quadrature, grid: Grid, delta: np.ndarray
) -> None:
    module = TrainablePartition(torch.from_numpy(delta), quadrature=quadrature, grid=grid)
    edges = module.edges().detach()
    assert edges.shape == (len(delta) + 1,)
    assert edges[0] == 0
    assert edges[-1] == 1
    assert bool((edges.diff() >= 0).all())
    moves = grid is Grid.END_POINT and quadrature is not Quadrature.GAUSS_LEGENDRE
    check_partition(module(), len(delta) + moves, SINGLE)


def test_edges_are_the_running_sums_of_the_squares() -> None:
    """delta^2 = 1, 4, 9, 2 of 16."""
    delta = torch.tensor([1.0, -2.0, 3.0, 2**0.5], dtype=torch.float64)
    module = TrainablePartition(delta)
    assert module.edges().tolist() == pytest.approx([0, 1 / 16, 5 / 16, 14 / 16, 1])
    assert module().points.tolist() == pytest.approx([1 / 32, 6 / 32, 19 / 32, 30 / 32])
    assert module().weights.tolist() == pytest.approx([1 / 16, 4 / 16, 9 / 16, 2 / 16])
    at_edges = TrainablePartition(delta, quadrature=Quadrature.TRAPEZOID, grid=Grid.END_POINT)()
    assert at_edges.points.tolist() == pytest.approx([0, 1 / 16, 5 / 16, 14 / 16, 1])
    assert at_edges.weights.tolist() == pytest.approx([1 / 32, 5 / 32, 13 / 32, 11 / 32, 2 / 32])


@every
def test_gradients_reach_the_deltas(quadrature: Quadrature, grid: Grid) -> None:
    delta = torch.tensor([1.0, 0.9, -1.2, 1.1], dtype=torch.float64, requires_grad=True)
    module = TrainablePartition(delta, quadrature=quadrature, grid=grid)

    def build(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.func.functional_call(module, {"delta": value}, ())
        return found.points, found.weights

    assert torch.autograd.gradcheck(build, (delta,))


@every
def test_training_moves_points_to_where_they_are_wanted(quadrature: Quadrature, grid: Grid) -> None:
    module = TrainablePartition.uniform(6, quadrature=quadrature, grid=grid)

    def distance() -> torch.Tensor:
        return (module().points - 0.2).square().mean()

    before = float(distance().detach())
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        distance().backward()
        optimizer.step()
    assert float(distance().detach()) < 0.8 * before
    check_partition(module(), 6, SINGLE)


@every
def test_a_partition_survives_its_state_dict(quadrature: Quadrature, grid: Grid) -> None:
    module = TrainablePartition(torch.tensor([0.3, 1.0, 0.5]), quadrature=quadrature, grid=grid)
    other = TrainablePartition(torch.ones(3), quadrature=quadrature, grid=grid)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other().points, module().points)
    assert torch.equal(other().weights, module().weights)


@pytest.mark.parametrize("delta", [[0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_deltas_without_a_partition_are_refused(delta: list[float]) -> None:
    module = TrainablePartition.uniform(2)
    with torch.no_grad():
        module.delta.copy_(torch.tensor(delta))
    with pytest.raises(PartitionError, match="finite and above 0"):
        module()
    with pytest.raises(PartitionError, match="finite and above 0"):
        TrainablePartition(torch.tensor(delta))


@pytest.mark.parametrize("delta", [torch.ones(2, 2), torch.ones(0), torch.ones(3, dtype=torch.bfloat16)])
def test_what_is_no_vector_of_deltas_is_refused(delta: torch.Tensor) -> None:
    with pytest.raises(PartitionError, match="float32 or float64"):
        TrainablePartition(delta)


@pytest.mark.parametrize("m", [0, -3])
def test_no_points_are_refused(m: int) -> None:
    for make in (uniform_partition, TrainablePartition.uniform):
        with pytest.raises(PartitionError, match="at least 1"):
            make(m)


edge_lists = st.lists(st.floats(0, 1), min_size=0, max_size=30).map(lambda inner: [0.0, *sorted(inner), 1.0])


@patient
@given(edges=edge_lists)
def test_edges_come_back(edges: list[float]) -> None:
    expected = torch.tensor(edges, dtype=torch.float64)
    assert torch.allclose(TrainablePartition.from_edges(expected).edges(), expected, rtol=0, atol=EXACT)
    assert torch.equal(warp(expected, len(edges) - 1), expected)


@patient
@given(edges=edge_lists, m=st.integers(1, 60))
def test_a_warp_is_numpys_piecewise_linear_map(edges: list[float], m: int) -> None:
    found = warp(torch.tensor(edges, dtype=torch.float64), m).numpy()
    expected = np.interp(np.arange(m + 1) / m, np.arange(len(edges)) / (len(edges) - 1), edges)
    assert found == pytest.approx(expected, abs=EXACT)
    assert found[0] == 0
    assert found[-1] == 1
    TrainablePartition.from_edges(torch.from_numpy(np.maximum.accumulate(found)))


def test_a_warp_of_a_warp_to_a_multiple_comes_back_and_has_a_gradient() -> None:
    edges = TrainablePartition(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)).edges()
    assert torch.allclose(warp(warp(edges, 12), 3), edges, rtol=0, atol=EXACT)
    module = TrainablePartition(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    warp(module.edges(), 7)[3].backward()
    assert float(module.delta.grad.abs().max()) > 0


@pytest.mark.parametrize(
    ("points", "weights", "message"),
    [
        ([0.2, 0.1], [0.5, 0.5], "sort them"),
        ([0.1, 1.2], [0.5, 0.5], r"points lie in \[0, 1\]"),
        ([0.1, float("nan")], [0.5, 0.5], r"points lie in \[0, 1\]"),
        ([0.1, 0.2], [0.5, 0.6], "sum to 1"),
        ([0.1, 0.2], [0.5, float("nan")], "sum to 1"),
        ([0.1, 0.2], [1.0], "one weight for each point"),
    ],
)
def test_what_is_no_partition_is_refused(points: list[float], weights: list[float], message: str) -> None:
    with pytest.raises(PartitionError, match=message) as caught:
        Partition(torch.tensor(points), torch.tensor(weights))
    assert caught.value.code == "invalid-partition"
