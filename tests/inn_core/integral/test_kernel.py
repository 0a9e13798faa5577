"""Integral kernels: exact at the native size, convergent to integrals, and adjoint as Lemma 1 says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from inn_core.errors import PartitionError
from inn_core.integral.interpolation import Grid, Interpolation, Taps, node_positions
from inn_core.integral.kernel import KernelSampling, integrate_taps, native_partition, sample_taps
from inn_core.integral.partition import Partition, TrainablePartition, uniform_partition
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
OUT, IN = sample_taps, integrate_taps
"""What an axis is to its layer: only interpolated, or integrated over."""


def uniform(m: int, sampling: KernelSampling, dtype: torch.dtype = torch.float64) -> Partition:
    return uniform_partition(m, quadrature=sampling.quadrature, grid=sampling.grid, dtype=dtype)


def discretized(
    stored: torch.Tensor,
    kinds: Sequence[Callable[..., Taps]],
    partitions: Sequence[Partition],
    sampling: KernelSampling | None = None,
) -> torch.Tensor:
    """Stored weights at partitions of their first axes, as `KernelSampler` takes them."""
    for axis, (taps, partition) in enumerate(zip(kinds, partitions, strict=True)):
        stored = taps(partition, stored.shape[axis], sampling or KernelSampling()).apply(stored, axis)
    return stored


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@every
@pytest.mark.parametrize("n", [1, 2, 7, 2048])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_native_partition_gives_the_weights_back(sampling: KernelSampling, n: int, dtype: torch.dtype) -> None:
    partition = native_partition(n, sampling, dtype=dtype)
    weights = normal(n, 5, dtype=dtype)
    for first in (OUT, IN):
        found = discretized(weights, (first, IN), (partition, native_partition(5, sampling, dtype=dtype)), sampling)
        assert found.dtype == dtype
        assert float((found - weights).abs().max()) < (SINGLE if dtype == torch.float32 else EXACT)


@pytest.mark.parametrize("n", [1, 2, 48, 2048])
def test_a_trained_partition_starts_at_the_weights(n: int) -> None:
    weights = normal(n, dtype=torch.float32)
    for kind in (OUT, IN):
        found = discretized(weights, (kind,), (TrainablePartition.uniform(n)(),)).detach()
        assert float((found - weights).abs().max()) < SINGLE * float(weights.abs().max())


@every
@pytest.mark.parametrize("m", [1, 2, 9, 20])
def test_constants_stay_constant_and_keep_their_sum(sampling: KernelSampling, m: int) -> None:
    """At any rate, also above the native 9, a constant kernel keeps its value and its integral."""
    stored = native_partition(9, sampling, dtype=torch.float64).weights.expand(9, 9)  # of the kernel F = 1
    found = discretized(stored, (OUT, IN), (uniform(m, sampling), uniform(m, sampling)), sampling)
    assert found.shape == (m, m)
    assert torch.allclose(found.sum(1), torch.ones(m, dtype=torch.float64), rtol=0, atol=EXACT)
    assert torch.allclose(found, uniform(m, sampling).weights.expand(m, m), rtol=0, atol=EXACT)


@every
def test_matrices_are_the_taps_of_the_kernel(sampling: KernelSampling) -> None:
    """W' = Q B (W / q) on one axis and B W on the other, in numpy."""
    weights, rows, columns = normal(6, 8, 3), uniform(4, sampling), uniform(11, sampling)
    found = discretized(weights, (OUT, IN), (rows, columns), sampling)
    native = native_partition(8, sampling, dtype=torch.float64).weights.numpy()
    sample, other = (sample_taps(one, n, sampling).matrix().numpy() for one, n in ((rows, 6), (columns, 8)))
    integrated = columns.weights.numpy()[:, None] * other / native
    assert integrate_taps(columns, 8, sampling).matrix().numpy() == pytest.approx(integrated, abs=EXACT)
    expected = np.einsum("ao,bi,oik->abk", sample, integrated, weights.numpy())
    assert found.numpy() == pytest.approx(expected, abs=1e-10)


def layer(sampling: KernelSampling, n: int) -> torch.Tensor:
    """Stored weights of F(x_out, x_in) = 1 + x_out + x_out x_in - 2 x_in."""
    x = node_positions(n, sampling.grid, dtype=torch.float64)
    values = 1 + x[:, None] + x[:, None] * x - 2 * x
    return values * native_partition(n, sampling, dtype=torch.float64).weights


@every
def test_a_smooth_layer_converges_to_the_integral(sampling: KernelSampling) -> None:
    """y(x_out) = integral of F(x_out, x) e^x; F is bilinear, so only the quadrature errs."""
    errors = []
    for m in (17, 33, 65, 513):
        partition = uniform(m, sampling)
        sized = discretized(layer(sampling, 10), (OUT, IN), (partition, partition), sampling)
        found = sized @ partition.points.exp()
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
    where = uniform(7, sampling)

    def answer(m: int) -> torch.Tensor:
        partition = uniform(m, sampling)
        return discretized(weights, (OUT, IN), (where, partition), sampling) @ (4 * partition.points).sin()

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
    """Lemma 1: the backward pass is the integral operator with the transposed interpolation, the same quadrature."""
    nodes = normal(*shape, dtype=torch.float32, seed=seed).requires_grad_()
    rows, columns = (uniform(m, sampling, torch.float32) for m in target)
    discrete = discretized(nodes, (OUT, IN), (rows, columns), sampling)
    gradient = normal(*discrete.shape, dtype=torch.float32, seed=seed + 1)
    (expected,) = torch.autograd.grad(discrete, nodes, gradient)
    left = sample_taps(rows, shape[0], sampling).matrix()
    right = integrate_taps(columns, shape[1], sampling).matrix()
    found = torch.einsum("ao,bi,abk->oik", left, right, gradient)
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
        return discretized(nodes, (OUT, IN), (trained, free), sampling)

    nodes = normal(5, 4, 1).requires_grad_()
    assert torch.autograd.gradcheck(build, (nodes, moving.delta.detach().clone().requires_grad_(), points, weights))


def test_precision_follows_the_nodes() -> None:
    partitions = (uniform_partition(5), uniform_partition(3))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        nodes = normal(8, 8).to(dtype)
        found = discretized(nodes, (OUT, IN), partitions)
        assert found.dtype == dtype
        reference = discretized(nodes.double(), (OUT, IN), partitions)
        assert torch.allclose(found.double(), reference, rtol=0, atol=0.1 if dtype != torch.float64 else EXACT)


@pytest.mark.parametrize("quadrature", [Quadrature.TRAPEZOID, Quadrature.SIMPSON])
def test_rules_with_end_points_are_refused_on_cell_centres(quadrature: Quadrature) -> None:
    with pytest.raises(PartitionError, match="use grid 'end-point'"):
        KernelSampling(quadrature=quadrature)


@every
def test_a_sampling_is_parsed_from_what_it_shows(sampling: KernelSampling) -> None:
    assert KernelSampling.parse(str(sampling)) == sampling
    rule, interpolation, grid = str(sampling).split(",")
    assert KernelSampling.parse(f"{rule}, {grid}, {interpolation}") == sampling


def test_what_a_quadrature_leaves_out_goes_with_its_rule() -> None:
    assert KernelSampling.parse("riemann") == KernelSampling()
    assert KernelSampling.parse("simpson") == KernelSampling(quadrature=Quadrature.SIMPSON, grid=Grid.END_POINT)
    assert KernelSampling.parse("gauss-legendre,linear").grid is Grid.CELL_CENTRED


@pytest.mark.parametrize(
    "text", ["", "euler", "linear", "simpson,cell-centred", "riemann,linear,cubic", "riemann,cubic,"]
)
def test_an_unknown_quadrature_is_refused(text: str) -> None:
    with pytest.raises(PartitionError):
        KernelSampling.parse(text)
