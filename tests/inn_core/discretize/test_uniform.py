"""Qualities `trained` and `uniform` as artifacts: ONNX Runtime computes what the module computes at that size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import load_checkpoint
from inn_core.discretize.uniform import trained_weights, uniform_weights
from inn_core.errors import PartitionError
from inn_core.exporting.export import export_artifact
from inn_core.integral.channel_permutation import smoothing_orders
from inn_core.integral.kernel import KernelSampling
from inn_core.planning.plan import Budget, feasible_range
from inn_core.sized.codec import kernel_sampler
from inn_core.training.integral_network import IntegralNetwork
from inn_core.training.recipes.shipped import shipped_file
from tests.inn_core.graph.tiny import run
from tests.inn_core.sized_networks import (
    KINDS,
    in_precision,
    inputs_of,
    shaken_,
    shares,
    small_mlp,
    smoothed,
    with_kernels,
)

CPU = torch.device("cpu")
DIGEST = "sha256:" + "0" * 64
PARITY = 2e-5  # float32, relative to the largest output


@pytest.fixture(scope="module", params=sorted(KINDS))
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return smoothed(KINDS[request.param]())


def artifact(
    checkpoint: Checkpoint, quality: str, folder: Path, share: float = 0.5
) -> tuple[dict[str, int], np.ndarray]:
    """Sizes of an artifact, and what ONNX Runtime makes of the calibration samples."""
    low, high = feasible_range(checkpoint, "params")
    budget = Budget("params", int(low + share * (high - low)))
    path = folder / f"{quality}.onnx"
    manifest = export_artifact(checkpoint, budget, quality=quality, path=path, checkpoint_digest=DIGEST, device="cpu")
    assert manifest["method"] == quality
    (found,) = run(onnx.load(path), {"x": checkpoint.calibration["x"]})
    return manifest["group_sizes"], found


def close(found: np.ndarray, expected: torch.Tensor) -> None:
    scale = max(1.0, float(expected.abs().max()))
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=PARITY * scale)


@pytest.mark.parametrize("sampler", ["nested", "kernel"])
def test_a_trained_artifact_is_the_module_at_that_size(checkpoint: Checkpoint, sampler: str, tmp_path: Path) -> None:
    network = shaken_(IntegralNetwork(checkpoint) if sampler == "nested" else with_kernels(checkpoint))
    trained = network.to_checkpoint()
    sizes, found = artifact(trained, "trained", tmp_path)
    with torch.no_grad():
        close(found, network.eval()(inputs_of(checkpoint), sizes=sizes))
    _, instant = artifact_of_instant(trained, tmp_path)
    np.testing.assert_array_equal(instant, found)


def artifact_of_instant(trained: Checkpoint, folder: Path) -> tuple[dict[str, int], np.ndarray]:
    """`instant` of a trained network is its trained size."""
    low, high = feasible_range(trained, "params")
    path = folder / "instant.onnx"
    manifest = export_artifact(
        trained,
        Budget("params", int(low + 0.5 * (high - low))),
        quality="instant",
        path=path,
        checkpoint_digest=DIGEST,
        device="cpu",
    )
    assert manifest["method"] == "trained"
    (found,) = run(onnx.load(path), {"x": trained.calibration["x"]})
    return manifest["group_sizes"], found


@pytest.mark.parametrize("trained_first", [False, True])
def test_a_uniform_artifact_has_the_statistics_of_its_own_size(
    checkpoint: Checkpoint, trained_first: bool, tmp_path: Path
) -> None:
    """In training mode a module normalizes with its batch: the calibration samples, as the artifact does."""
    if trained_first:
        checkpoint = shaken_(IntegralNetwork(checkpoint)).to_checkpoint()
    sizes, found = artifact(checkpoint, "uniform", tmp_path)
    plain = with_kernels(replace(checkpoint, trained=None)).train()
    with torch.no_grad():
        close(found, plain(inputs_of(checkpoint), sizes=sizes))


def test_without_samples_uniform_weights_are_the_sampled_ones() -> None:
    checkpoint = smoothed(small_mlp())
    bare = replace(checkpoint, calibration={})
    sizes = shares(checkpoint, 0.5)
    found = uniform_weights(bare, sizes, device=CPU)
    expected = with_kernels(checkpoint, normalize=False).at(sizes).weights()
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight.numpy(force=True))


def test_uniform_partitions_ignore_tuned_ones() -> None:
    checkpoint = smoothed(small_mlp())
    sizes = shares(checkpoint, 0.5)
    network = with_kernels(checkpoint)
    network.sampler.tuned = {
        name: [torch.linspace(0, 1, size + 1, dtype=torch.float64) ** 2] for name, size in sizes.items()
    }
    tuned = network.to_checkpoint()
    assert tuned.trained is not None
    assert tuned.trained.partitions
    plain = uniform_weights(checkpoint, sizes, device=CPU)
    for name, weight in uniform_weights(tuned, sizes, device=CPU).items():
        np.testing.assert_allclose(weight, plain[name], rtol=0, atol=1e-5)
    first = trained_weights(tuned, sizes, device=CPU)
    assert any(np.abs(first[name] - plain[name]).max() > 1e-3 for name in plain)


def test_weights_keep_the_dtypes_of_the_checkpoint() -> None:
    checkpoint = smoothed(small_mlp())
    double = in_precision(checkpoint, np.float64)
    trained = IntegralNetwork(double).to_checkpoint()
    sizes = shares(checkpoint, 0.5)
    for weights in (trained_weights(trained, sizes, device=CPU), uniform_weights(trained, sizes, device=CPU)):
        assert {array.dtype for array in weights.values()} == {np.dtype(np.float64)}


def test_a_quadrature_decides_weights_and_build_key_and_the_default_does_not(tmp_path: Path) -> None:
    checkpoint = smoothed(small_mlp())
    low, high = feasible_range(checkpoint, "params")

    def exported(quadrature: str | None, quality: str = "uniform") -> tuple[str, str]:
        manifest = export_artifact(
            checkpoint,
            Budget("params", (low + high) // 2),
            quality=quality,
            quadrature=quadrature,
            path=tmp_path / "a.onnx",
            checkpoint_digest=DIGEST,
            device="cpu",
        )
        return manifest["digest"], manifest["build_key"]

    plain = exported(None)
    assert exported("riemann") == exported("riemann,cell-centred,cubic") == plain
    others = [plain, *(exported(text) for text in ("riemann,linear", "simpson", "trapezoid", "gauss-legendre"))]
    assert len({digest for digest, _ in others}) == len({key for _, key in others}) == len(others)
    for quality, quadrature in (("refined", "simpson"), ("uniform", "euler")):
        with pytest.raises(PartitionError):
            exported(quadrature, quality)


def test_a_quadrature_samples_the_network_with_that_rule() -> None:
    checkpoint = replace(smoothed(small_mlp()), calibration={})
    sizes, sampling = shares(checkpoint, 0.5), KernelSampling.parse("simpson,linear")
    found = uniform_weights(checkpoint, sizes, device=CPU, sampling=sampling)
    network = IntegralNetwork(checkpoint, sampler=kernel_sampler(checkpoint, sampling=sampling), normalize=False)
    expected = network.at(sizes).weights()
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight.numpy(force=True))


@pytest.mark.parametrize("name", ["fashion_resnet", "fashion_resnet_imported"])
def test_shipped_checkpoints_offer_uniform_sizes(name: str, tmp_path: Path) -> None:
    """With the smoothing orders of their own weights; the export compares ONNX Runtime with PyTorch itself."""
    shipped = load_checkpoint(shipped_file(f"checkpoints/{name}.inn"))
    trained = ["trained"] if name == "fashion_resnet" else []
    assert shipped.qualities == ["refined", "instant", *trained, "uniform"]
    orders = smoothing_orders(shipped)
    assert all(np.array_equal(shipped.channel_permutations[group], order) for group, order in orders.items())
    path = tmp_path / "a.onnx"
    manifest = export_artifact(
        shipped, Budget("params", 170_000), quality="uniform", path=path, checkpoint_digest=DIGEST, device="cpu"
    )
    assert manifest["method"] == "uniform"
    assert manifest["parity"] < PARITY
