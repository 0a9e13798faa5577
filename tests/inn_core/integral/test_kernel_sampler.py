"""Kernel sampling against dense matrices and closed forms, for every quadrature."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import PartitionError
from inn_core.graph.axis import Axis, fixed
from inn_core.integral import kernel_sampler
from inn_core.integral.interpolation import Grid, Interpolation, interpolation_taps
from inn_core.integral.kernel import KernelSampling
from inn_core.integral.kernel_sampler import KernelSampler, sampling_from
from inn_core.integral.quadrature import Quadrature
from inn_core.training.integral_network import IntegralNetwork
from tests.inn_core.graph.tiny import model_of, node
from tests.inn_core.sized_networks import KINDS, shares, small_residual, smooth_orders, smoothed, with_kernels
from tests.inn_core.trained_networks import gaussian, integral

SAMPLINGS = [
    KernelSampling(),
    KernelSampling(Interpolation.LINEAR),
    KernelSampling(Interpolation.CUBIC, Quadrature.GAUSS_LEGENDRE),
    KernelSampling(Interpolation.CUBIC, Quadrature.RIEMANN, Grid.END_POINT),
    KernelSampling(Interpolation.LINEAR, Quadrature.TRAPEZOID, Grid.END_POINT),
    KernelSampling(Interpolation.CUBIC, Quadrature.SIMPSON, Grid.END_POINT),
]
IDS = ["-".join(map(str, (each.interpolation, each.quadrature, each.grid))) for each in SAMPLINGS]


@pytest.fixture(scope="module", params=sorted(KINDS))
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return smoothed(KINDS[request.param]())


@pytest.fixture(scope="module")
def residual() -> Checkpoint:
    return smoothed(small_residual())


def made(checkpoint: Checkpoint, sampling: KernelSampling | None = None) -> KernelSampler:
    return KernelSampler(checkpoint, smooth_orders(checkpoint), sampling=sampling)


def axis_of(checkpoint: Checkpoint) -> tuple[str, Axis]:
    name = checkpoint.structure.groups[0].name
    return name, ((name,),)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=IDS)
def test_the_native_size_is_the_weights_themselves(checkpoint: Checkpoint, sampling: KernelSampling) -> None:
    sampler = made(checkpoint, sampling)
    full = checkpoint.structure.full_sizes()
    for name, axes in checkpoint.structure.weights.items():
        weight = torch.from_numpy(np.array(checkpoint.weights[name]))
        for integrated in (None, 0, 1):
            assert torch.equal(sampler.sized(weight, axes, full, integrated=integrated), weight)


@pytest.mark.parametrize("sampling", SAMPLINGS[:-1], ids=IDS[:-1])  # Simpson's rule of 8 points is no closed form
@pytest.mark.parametrize("size", [5, 7, 19])
def test_axes_are_read_in_smoothing_order_through_the_interpolation(
    residual: Checkpoint, sampling: KernelSampling, size: int
) -> None:
    """Dense matrices of the two axes of a weight."""
    sampler = made(residual, sampling)
    outer, inner = residual.structure.weights["w1"][:2]
    sizes = {**residual.structure.full_sizes(), inner[0][0]: size, outer[0][0]: 3}
    orders = smooth_orders(residual)
    weight = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ordered = weight[orders[str(outer[0][0])]][:, orders[str(inner[0][0])]]
    points = {n: sampler.partition(str(axis[0][0]), n, weight) for axis, n in ((outer, 3), (inner, size))}
    rows, columns = (
        interpolation_taps(points[n].points, 8, interpolation=sampling.interpolation, grid=sampling.grid).matrix()
        for n in (3, size)
    )
    ends = 0.5 if sampling.quadrature is Quadrature.TRAPEZOID else 1.0
    native = [ends, *[1.0] * 6, ends]
    over = torch.tensor(native, dtype=torch.float64)
    over = over / over.sum()
    dense = torch.einsum("ao,bi,oixy->abxy", rows, points[size].weights[:, None] * columns / over, ordered)
    found = sampler.sized(weight, residual.structure.weights["w1"], sizes, integrated=1)
    torch.testing.assert_close(found, dense, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=IDS)
def test_sums_over_an_integrated_axis_are_kept_for_constant_kernels(
    residual: Checkpoint, sampling: KernelSampling
) -> None:
    """The integral of a constant is the constant, whatever the rule and the size."""
    sampler = made(residual, sampling)
    name, axis = axis_of(residual)
    native = {Quadrature.TRAPEZOID: sampler.partition(name, 8, torch.zeros(1, dtype=torch.float64)).weights * 8}
    native[Quadrature.SIMPSON] = native[Quadrature.TRAPEZOID]
    weight = native.get(sampling.quadrature, torch.ones(8, dtype=torch.float64))
    placed = torch.empty(8, dtype=torch.float64)
    placed[torch.from_numpy(smooth_orders(residual)[name])] = weight
    for size in (1, 3, 5, 13, 32):
        found = sampler.sized(placed[None, :], (fixed(1), axis), {name: size}, integrated=1)
        assert found.shape == (1, size)
        assert float(found.sum()) == pytest.approx(8, rel=1e-12)


def test_every_weight_has_its_shape_at_every_size(checkpoint: Checkpoint) -> None:
    sampler = made(checkpoint)
    for share in (0.01, 0.5, 1.7):
        sizes = shares(checkpoint, share)
        for name, axes in checkpoint.structure.weights.items():
            found = sampler.sized(torch.from_numpy(np.array(checkpoint.weights[name])), axes, sizes, integrated=0)
            expected = [
                sum(int(np.prod([sizes.get(str(item), item) for item in segment])) for segment in axis) for axis in axes
            ]
            assert list(found.shape) == expected
            assert bool(found.isfinite().all())


def test_moments_are_carried_linearly_between_points(residual: Checkpoint) -> None:
    """A linear function of the place stays itself between the outermost points; numpy interpolates the rest."""
    sampler = made(residual)
    name, axis = axis_of(residual)
    order = smooth_orders(residual)[name]
    full = residual.structure.full_sizes()
    places = (np.arange(8) + 0.5) / 8
    values = torch.empty(8, dtype=torch.float64)
    values[torch.from_numpy(order)] = torch.from_numpy(np.sin(4 * places))  # native channels are not in that order
    found, known = sampler.carried(values, axis, full, {**full, name: 5})
    assert bool(known.all())
    wanted = (np.arange(5) + 0.5) / 5
    np.testing.assert_allclose(found.numpy(), np.interp(wanted, places, np.sin(4 * places)), atol=1e-12)
    back, _ = sampler.carried(found, axis, {**full, name: 5}, full)
    np.testing.assert_allclose(back.numpy()[order], np.interp(places, wanted, found.numpy()), atol=1e-12)
    one, _ = sampler.carried(torch.tensor([2.5]), axis, {**full, name: 1}, {**full, name: 3})
    assert one.tolist() == [2.5] * 3


def test_tuned_partitions_are_used_and_carried_to_other_sizes(residual: Checkpoint) -> None:
    name, _ = axis_of(residual)
    edges = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0], dtype=torch.float64)
    sampler = KernelSampler(residual, smooth_orders(residual), tuned={name: [edges]})
    like = torch.zeros(1, dtype=torch.float64)
    exact = sampler.partition(name, 4, like)
    torch.testing.assert_close(exact.weights, edges.diff())
    torch.testing.assert_close(exact.points, (edges[1:] + edges[:-1]) / 2)
    below = sampler.partition(name, 2, like)  # the density of the nearest known size
    torch.testing.assert_close(below.weights, torch.tensor([0.3, 0.7], dtype=torch.float64))
    between = sampler.partition(name, 6, like)  # halfway to the native size, which is uniform
    warped = np.interp(np.arange(7) / 6, np.arange(5) / 4, edges.numpy())
    np.testing.assert_allclose(between.weights.numpy(), np.diff((warped + np.arange(7) / 6) / 2), atol=1e-12)
    uniform = sampler.partition(name, 8, like)
    torch.testing.assert_close(uniform.weights, torch.full((8,), 1 / 8, dtype=torch.float64))


def test_tuning_starts_from_what_is_there_and_settles(residual: Checkpoint) -> None:
    sampler = made(residual)
    sizes = {group.name: size for group, size in zip(residual.structure.groups, (4, 1), strict=True)}
    name = residual.structure.groups[0].name
    weight = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    axes = (((name,),), fixed(3))
    before = sampler.sized(weight, axes, sizes)
    (deltas,) = sampler.tune_(sizes)  # a single point has nothing to tune
    torch.testing.assert_close(sampler.sized(weight, axes, sizes), before)
    with torch.no_grad():
        deltas.copy_(torch.tensor([1.0, 2.0, 1.0, 2.0]))
    live = sampler.sized(weight, axes, sizes)
    assert not torch.allclose(live, before)
    live.sum().backward()
    assert deltas.grad is not None
    assert bool((deltas.grad != 0).any())
    sampler.settle_()
    torch.testing.assert_close(sampler.sized(weight, axes, sizes), live.detach())
    torch.testing.assert_close(sampler.tuned[name][0], torch.tensor([0, 0.1, 0.5, 0.6, 1.0], dtype=torch.float64))
    assert list(sampler.parameters()) == []


def test_only_cell_centred_partitions_are_tuned(residual: Checkpoint) -> None:
    sampler = made(residual, SAMPLINGS[4])
    with pytest.raises(PartitionError, match=r"on grid 'end-point' are not tuned; use cell-centred"):
        sampler.tune_(residual.structure.full_sizes())


@pytest.mark.parametrize("dense", [0, 2**18])
def test_matrices_that_are_kept_stay_within_bounds(
    residual: Checkpoint, monkeypatch: pytest.MonkeyPatch, dense: int
) -> None:
    """What is forgotten is made again, and gives the same."""
    monkeypatch.setattr(kernel_sampler, "_ELEMENTS_KEPT", 100)
    monkeypatch.setattr(kernel_sampler, "_DENSE_ELEMENTS", dense)
    sampler = made(residual)
    name, axis = axis_of(residual)
    weight = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        for size in (1, 2, 3, 4, 5, 6, 7, 9, 30):
            found = sampler.sized(weight, (axis, fixed(2)), {name: size})
            assert torch.equal(found, made(residual).sized(weight, (axis, fixed(2)), {name: size}))
            kept = sum(kernel_sampler._n_elements(matrix) for matrix in sampler._matrices.values())
            assert kept == sampler._elements
            assert kept <= 100 or len(sampler._matrices) == 1


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=IDS)
def test_taps_give_what_dense_matrices_give(
    checkpoint: Checkpoint, sampling: KernelSampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients of every weight, below and above the native size, along every axis."""
    for share in (0.01, 0.5, 1.7):
        sizes = shares(checkpoint, share)
        for name, axes in checkpoint.structure.weights.items():
            weight = torch.from_numpy(np.array(checkpoint.weights[name])).double().requires_grad_()
            for integrated in (None, 0, 1):
                results = []
                for dense in (0, 2**18):
                    monkeypatch.setattr(kernel_sampler, "_DENSE_ELEMENTS", dense)
                    found = made(checkpoint, sampling).sized(weight, axes, sizes, integrated=integrated)
                    target = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view(found.shape)
                    (gradient,) = torch.autograd.grad((found * target).sum(), weight)
                    results.append((found.detach(), gradient))
                for sparse, expected in zip(*results, strict=True):
                    torch.testing.assert_close(sparse, expected, rtol=1e-11, atol=1e-11)


MOST_BYTES = 128 * 2**20
"""Addresses that a size may take beyond those of the loaded network; one dense matrix would be 288 MB."""


def sample_in_few_addresses(_: int, path: str) -> None:
    """In a process of its own: load a file, and make a size of it where few addresses are left."""
    torch.set_num_threads(1)
    network = IntegralNetwork.load(path).eval()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    limit = int(line.split()[1]) * 1024 + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with torch.no_grad():
        weights = network.at(dict.fromkeys(network.full_sizes, 6_000)).weights()
    assert sorted(weight.numel() for weight in weights.values()) == [1, 6_000, 6_000, 6_000]


@pytest.mark.slow
def test_a_file_with_a_huge_group_takes_no_memory_to_speak_of(tmp_path: Path) -> None:
    """A group of 12,000 channels in a small file: the matrix to half of them would have 72 million entries."""
    model = model_of(
        [node("Gemm", "x w1 b1", "h"), node("Relu", "h", "a"), node("Gemm", "a w2 b2", "y")],
        weights={"w1": (1, 12_000), "b1": (12_000,), "w2": (12_000, 1), "b2": (1,)},
        inputs={"x": (1,)},
    )
    checkpoint = smoothed(integral(model, {"x": gaussian(4, 1)}))
    path = tmp_path / "huge.inn"
    with_kernels(checkpoint).save(path)
    assert path.stat().st_size < 10 * 2**20
    torch.multiprocessing.spawn(sample_in_few_addresses, args=(str(path),), nprocs=1)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=IDS)
def test_a_description_gives_the_sampling_back(residual: Checkpoint, sampling: KernelSampling) -> None:
    described = made(residual, sampling).describe()
    assert sampling_from(described) == sampling
    for member in ("interpolation", "quadrature", "grid"):
        with pytest.raises(PartitionError, match="which this release does not know"):
            sampling_from({**described, member: "unheard-of"})
        with pytest.raises(PartitionError, match="which this release does not know"):
            sampling_from({key: value for key, value in described.items() if key != member})
