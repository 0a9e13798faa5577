"""Integral kernels: exact at the native size, convergent to integrals, and adjoint as Lemma 1 says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from inn_core.errors import PartitionError
from inn_core.integral.interpolation import Grid, Interpolation, node_positions
from inn_core.integral.kernel import (
    AxisKind,
    IntegralKernel,
    KernelSampling,
    integrate_matrix,
    native_partition,
    resample,
    sample_matrix,
)
from inn_core.integral.partition import Partition, TrainablePartition, nested_partition, uniform_partition
from inn_core.integral.quadrature import Quadrature

EXACT = 1e-12
SINGLE = 1e-6  # the bar for the native size in float32
ADJOINT = 1e-5  # the bar for the adjoint against autograd in float32
SAMPLINGS = [
    KernelSampling(interpolation, quadrature, grid)
    for interpolation, quadrature, grid in itertools.product(Interpolation, Quadrature, Grid)
    if grid is Grid.END_POINT or quadrature in (Quadrature.RIEMANN, Quadrature.GAUSS_LEGENDRE)
]
every = pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda s: f"{s.interpolation}-{s.quadrature}-{s.grid}")
patient = settings(deadline=None, max_examples=20)  # a shared machine may stop for longer than any deadline
OUT, IN, FIXED = AxisKind.SAMPLED, AxisKind.INTEGRATED, AxisKind.DISCRETE


def uniform(m: int, sampling: KernelSampling, dtype: torch.dtype = torch.float64) -> Partition:
    return uniform_partition(m, quadrature=sampling.quadrature, grid=sampling.grid, dtype=dtype)


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@every
@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 2048])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_native_partition_gives_the_weights_back(sampling: KernelSampling, n: int, dtype: torch.dtype) -> None:
    partition = native_partition(n, sampling, dtype=dtype)
    weights = normal(n, 5, dtype=dtype)
    for first in (OUT, IN):
        kernel = IntegralKernel.from_weights(weights, (first, IN), sampling=sampling)
        found = kernel.discretize([partition, native_partition(5, sampling, dtype=dtype)])
        assert found.dtype == dtype
        assert float((found - weights).abs().max()) < (SINGLE if dtype == torch.float32 else EXACT)


@pytest.mark.parametrize("n", [1, 2, 48, 2048])
def test_a_trained_partition_starts_at_the_weights(n: int) -> None:
    weights = normal(n, dtype=torch.float32)
    for kind in (OUT, IN):
        found = IntegralKernel(weights, (kind,)).discretize([TrainablePartition.uniform(n)()]).detach()
        assert float((found - weights).abs().max()) < SINGLE * float(weights.abs().max())


@every
def test_without_partitions_the_weights_are_returned(sampling: KernelSampling) -> None:
    weights = normal(4, 3)
    assert IntegralKernel(weights, (OUT, IN), sampling).discretize([None, None]) is weights


@every
@pytest.mark.parametrize("m", [1, 2, 5, 9, 20, 51])
def test_constants_stay_constant_and_keep_their_sum(sampling: KernelSampling, m: int) -> None:
    """At any rate, also above the native 9, a constant kernel keeps its value and its integral."""
    stored = native_partition(9, sampling, dtype=torch.float64).weights.expand(9, 9)  # of the kernel F = 1
    kernel = IntegralKernel(stored, (OUT, IN), sampling)
    found = kernel.discretize([uniform(m, sampling), uniform(m, sampling)])
    assert found.shape == (m, m)
    assert torch.allclose(found.sum(1), torch.ones(m, dtype=torch.float64), rtol=0, atol=EXACT)
    assert torch.allclose(found, uniform(m, sampling).weights.expand(m, m), rtol=0, atol=EXACT)


@every
def test_matrices_are_the_taps_of_the_kernel(sampling: KernelSampling) -> None:
    """W' = Q B (W / q) on one axis and B W on the other, in numpy."""
    weights, rows, columns = normal(6, 8, 3), uniform(4, sampling), uniform(11, sampling)
    found = IntegralKernel(weights, (OUT, IN, FIXED), sampling).discretize([rows, columns, None])
    native = native_partition(8, sampling, dtype=torch.float64).weights.numpy()
    sample, other = sample_matrix(rows, 6, sampling).numpy(), sample_matrix(columns, 8, sampling).numpy()
    integrated = columns.weights.numpy()[:, None] * other / native
    assert integrate_matrix(columns, 8, sampling).numpy() == pytest.approx(integrated, abs=EXACT)
    expected = np.einsum("ao,bi,oik->abk", sample, integrated, weights.numpy())
    assert found.numpy() == pytest.approx(expected, abs=1e-10)


def layer(sampling: KernelSampling, n: int) -> IntegralKernel:
    """Stored weights of F(x_out, x_in) = 1 + x_out + x_out x_in - 2 x_in."""
    x = node_positions(n, sampling.grid, dtype=torch.float64)
    values = 1 + x[:, None] + x[:, None] * x - 2 * x
    return IntegralKernel(values * native_partition(n, sampling, dtype=torch.float64).weights, (OUT, IN), sampling)


@every
def test_a_smooth_layer_converges_to_the_integral(sampling: KernelSampling) -> None:
    """y(x_out) = integral of F(x_out, x) e^x; F is bilinear, so only the quadrature errs."""
    errors = []
    for m in (17, 33, 65, 513):
        partition = uniform(m, sampling)
        found = layer(sampling, 10).discretize([partition, partition]) @ partition.points.exp()
        e, x = np.e, partition.points.numpy()
        expected = (1 + x) * (e - 1) + (x - 2)  # integral of e^x is e - 1, of x e^x it is 1
        errors.append(float(np.abs(found.numpy() - expected).max()))
    assert integrate.quad(lambda x: x * np.exp(x), 0, 1)[0] == pytest.approx(1)
    slow = sampling.quadrature is Quadrature.RIEMANN and sampling.grid is Grid.END_POINT
    assert errors[-1] < (1e-2 if slow else 1e-5)
    assert all(later <= max(earlier * 0.6, EXACT) for earlier, later in itertools.pairwise(errors))


@every
def test_layers_at_m_and_2m_agree_increasingly(sampling: KernelSampling) -> None:
    weights = normal(12, 12, seed=3)
    kernel = IntegralKernel(weights, (OUT, IN), sampling)
    where = uniform(7, sampling)

    def answer(m: int) -> torch.Tensor:
        partition = uniform(m, sampling)
        return kernel.discretize([where, partition]) @ (4 * partition.points).sin()

    gaps = [float((answer(m) - answer(2 * m)).abs().max()) for m in (24, 96, 384)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.1 * gaps[0]


shapes = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3))
targets = st.tuples(st.integers(1, 15), st.integers(1, 15))


@every
@patient
@given(shape=shapes, target=targets, seed=st.integers(0, 99))
def test_the_adjoint_is_what_autograd_finds(
    sampling: KernelSampling, shape: tuple[int, int, int], target: tuple[int, int], seed: int
) -> None:
    nodes = normal(*shape, dtype=torch.float32, seed=seed).requires_grad_()
    kernel = IntegralKernel(nodes, (OUT, IN, FIXED), sampling)
    partitions = [*(uniform(m, sampling, torch.float32) for m in target), None]
    discrete = kernel.discretize(partitions)
    gradient = normal(*discrete.shape, dtype=torch.float32, seed=seed + 1)
    (expected,) = torch.autograd.grad(discrete, nodes, gradient)
    found = kernel.discretize_adjoint(gradient, partitions)
    assert not found.requires_grad
    scale = max(float(expected.abs().max()), 1.0)
    assert float((found - expected).abs().max()) <= ADJOINT * scale


@every
def test_gradients_reach_nodes_deltas_points_and_weights(sampling: KernelSampling) -> None:
    moving = TrainablePartition(
        torch.tensor([1.0, 0.9, 1.15, -1.1], dtype=torch.float64), quadrature=sampling.quadrature, grid=sampling.grid
    )
    points = torch.tensor([0.12, 0.41, 0.83], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([0.3, 0.3], dtype=torch.float64, requires_grad=True)

    def build(nodes: torch.Tensor, delta: torch.Tensor, points: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        trained = torch.func.functional_call(moving, {"delta": delta}, ())
        free = Partition(points, torch.cat([weights, 1 - weights.sum()[None]]))
        return IntegralKernel(nodes, (OUT, IN, FIXED), sampling).discretize([trained, free, None])

    nodes = normal(5, 4, 1).requires_grad_()
    assert torch.autograd.gradcheck(build, (nodes, moving.delta.detach().clone().requires_grad_(), points, weights))


def test_nested_selection_takes_the_nodes_themselves() -> None:
    weights, order = normal(9, 4, dtype=torch.float32), np.random.default_rng(0).permutation(9)
    found = IntegralKernel(weights, (OUT, FIXED)).discretize([nested_partition(order, 5), None])
    assert torch.equal(found, weights[np.sort(order[:5])])


def test_precision_follows_the_nodes() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        kernel = IntegralKernel(normal(8, 8).to(dtype), (OUT, IN))
        found = kernel.discretize([uniform_partition(5), uniform_partition(3)])
        reference = IntegralKernel(kernel.nodes.double(), (OUT, IN)).discretize(
            [uniform_partition(5), uniform_partition(3)]
        )
        assert found.dtype == dtype
        assert torch.allclose(found.double(), reference, rtol=0, atol=0.1 if dtype != torch.float64 else EXACT)


@every
@pytest.mark.parametrize(("n", "m"), [(1, 4), (4, 1), (2, 3), (9, 5), (5, 9), (40, 41), (8, 8)])
def test_resampling_keeps_what_both_counts_can_represent(sampling: KernelSampling, n: int, m: int) -> None:
    degree = min(n, m, 2 if sampling.interpolation is Interpolation.LINEAR else 3) - 1
    line = np.polynomial.Polynomial([1.0, 2.0, -1.5][: degree + 1])
    before, after = (line(node_positions(k, sampling.grid, dtype=torch.float64).numpy()) for k in (n, m))
    found = resample(torch.from_numpy(before)[None], 1, m, sampling=sampling)
    assert found.numpy()[0] == pytest.approx(after, abs=1e-10)
    stored, expected = (
        values * native_partition(k, sampling, dtype=torch.float64).weights.numpy()
        for k, values in ((n, before), (m, after))
    )
    found = resample(torch.from_numpy(stored), -1, m, kind=IN, sampling=sampling)
    assert found.numpy() == pytest.approx(expected, abs=1e-10)


@every
def test_resampling_to_the_same_count_changes_nothing(sampling: KernelSampling) -> None:
    nodes = normal(13, 3)
    assert torch.allclose(resample(nodes, 0, 13, sampling=sampling), nodes, rtol=0, atol=1e-10)


def test_resampling_is_closest_in_mean_square() -> None:
    """numpy's least squares between dense samples of both kernels."""
    sampling, nodes = KernelSampling(), normal(12)
    dense = uniform_partition(6000, dtype=torch.float64)
    old, new = (sample_matrix(dense, n, sampling).numpy() for n in (12, 7))
    expected = np.linalg.lstsq(new, old @ nodes.numpy(), rcond=None)[0]
    assert resample(nodes, 0, 7).numpy() == pytest.approx(expected, abs=0.02)


def test_a_kernel_with_fewer_nodes_represents_smooth_weights() -> None:
    grid = torch.linspace(0, 1, 40, dtype=torch.float64)
    weights = torch.sin(3 * grid)[:, None] * torch.cos(2 * grid)
    kernel = IntegralKernel.from_weights(weights, (OUT, IN), n_nodes=[12, 10])
    assert kernel.nodes.shape == (12, 10)
    back = kernel.discretize([uniform_partition(40, dtype=torch.float64)] * 2)
    assert float((back - weights).abs().max()) < 1e-2


@pytest.mark.parametrize("quadrature", [Quadrature.TRAPEZOID, Quadrature.SIMPSON])
def test_rules_with_end_points_are_refused_on_cell_centres(quadrature: Quadrature) -> None:
    with pytest.raises(PartitionError, match="use grid 'end-point'"):
        KernelSampling(quadrature=quadrature)


def test_a_wrong_number_of_axes_is_refused() -> None:
    with pytest.raises(PartitionError, match="have 2 axes, and 1 kinds are given"):
        IntegralKernel(torch.ones(2, 2), (OUT,))
    kernel = IntegralKernel(torch.ones(2, 2), (OUT, FIXED))
    with pytest.raises(PartitionError, match="1 entries are given for the 2 axes"):
        kernel.discretize([None])
    with pytest.raises(PartitionError, match="1 entries are given for the 2 axes"):
        kernel.discretize_adjoint(torch.ones(2, 2), [None])


def test_a_discrete_axis_keeps_its_size() -> None:
    kernel = IntegralKernel(torch.ones(2, 2), (OUT, FIXED))
    with pytest.raises(PartitionError, match="axis 1 is discrete"):
        kernel.discretize([None, uniform_partition(2)])
    with pytest.raises(PartitionError, match="axis 1 is discrete"):
        IntegralKernel.from_weights(torch.ones(2, 2), (OUT, FIXED), n_nodes=[None, 3])
    with pytest.raises(PartitionError, match="found 0 nodes"):
        resample(torch.ones(3), 0, 0)
