"""The lockstep walk against closed forms: nothing lost at full size, exact where exactness is possible."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import torch

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.fitting.divergence import OutputKind, divergence
from inn_core.fitting.lockstep import HYBRID, ONE_SHOT, SEQUENTIAL, LockstepFit, Method, SizedModel
from inn_core.fitting.runtime import LoadedNetwork, run_outputs
from inn_core.integral.selection import selections
from tests.inn_core.graph.tiny import model_of, node
from tests.inn_core.trained_networks import CPU, engine_of, gaussian, integral, mlp, residual_convnet, smooth_images

EXACT = Method("exact", sequential=True, ridge=1e-9)
EXACT_ONE_SHOT = Method("exact one-shot", sequential=False, ridge=1e-12)


def walked(
    checkpoint: Checkpoint, sizes: Mapping[str, int], *methods: Method, samples: Mapping[str, Array] | None = None
) -> tuple[LoadedNetwork, dict[str, SizedModel]]:
    loaded = engine_of(checkpoint)
    kept = selections(checkpoint.orders, sizes)
    candidates = [SizedModel(m.name, checkpoint, loaded.weights, kept, m, device=CPU) for m in methods]
    LockstepFit(checkpoint, loaded.program, loaded.weights, candidates).run(
        loaded.chunks(samples or checkpoint.calibration)
    )
    return loaded, {candidate.key: candidate for candidate in candidates}


def outputs(
    loaded: LoadedNetwork, candidate: SizedModel, samples: Mapping[str, Array]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the full network and of the candidate."""
    chunks = loaded.chunks(samples)
    full = run_outputs(loaded.program, loaded.weights, chunks)["y"]
    return full, run_outputs(candidate.program, candidate.fitted, chunks)["y"]


@pytest.mark.parametrize("method", [ONE_SHOT, SEQUENTIAL])
@pytest.mark.parametrize("build", [mlp, residual_convnet])
def test_with_all_channels_the_weights_come_back(build: object, method: Method) -> None:
    assert callable(build)
    samples = gaussian(256, 6) if build is mlp else smooth_images(64)
    network = integral(build(), {"x": samples})
    _, found = walked(network, network.structure.full_sizes(), method)
    for name, weight in network.weights.items():
        np.testing.assert_allclose(found[method.name].fitted[name].numpy(), weight, atol=2e-4)


@pytest.mark.parametrize("method", [EXACT, EXACT_ONE_SHOT])
def test_a_linear_network_keeps_its_function_with_as_many_channels_as_its_signal_has_dimensions(
    method: Method,
) -> None:
    """Four input features span at most four dimensions in every layer: four channels carry everything."""
    network = integral(mlp(features=4, hidden=12, activation="Identity"), {"x": gaussian(200, 4)})
    sizes = dict.fromkeys(network.structure.full_sizes(), 4)
    loaded, found = walked(network, sizes, method)
    full, sized = outputs(loaded, found[method.name], {"x": gaussian(50, 4, seed=1)})
    assert float((full - sized).abs().max()) < 2e-3 * float(full.abs().max())


def test_one_channel_fewer_than_the_signal_has_is_not_exact() -> None:
    network = integral(mlp(features=4, hidden=12, activation="Identity"), {"x": gaussian(200, 4)})
    sizes = dict.fromkeys(network.structure.full_sizes(), 3)
    loaded, found = walked(network, sizes, EXACT)
    full, sized = outputs(loaded, found[EXACT.name], {"x": gaussian(50, 4, seed=1)})
    assert float((full - sized).abs().max()) > 1e-2 * float(full.abs().max())


def test_one_shot_is_the_closed_form() -> None:
    """W' = W D*, D* = S_hk (S_kk)^-1, b' = b + W (mean_h - D* mean_k), with numpy on the activations."""
    samples = gaussian(400, 6)
    order = np.random.default_rng(3).permutation(12)
    network = integral(mlp(), {"x": samples}, orders={"w1:1": order.tolist()})
    names = list(network.structure.full_sizes())
    sizes = {names[0]: 7, names[1]: 12}
    _, found = walked(network, sizes, EXACT_ONE_SHOT)
    w = {name: array.astype(np.float64) for name, array in network.weights.items()}
    hidden = np.maximum(samples @ w["w1"] + w["b1"], 0)
    kept = np.sort(network.orders[names[0]][:7])
    covariance = np.cov(hidden.T, bias=True)
    quadrature = covariance[:, kept] @ np.linalg.inv(covariance[np.ix_(kept, kept)])
    expected = quadrature.T @ w["w2"]
    bias = w["b2"] + (hidden.mean(0) - quadrature @ hidden[:, kept].mean(0)) @ w["w2"]
    fitted = found[EXACT_ONE_SHOT.name].fitted
    np.testing.assert_allclose(fitted["w2"].numpy(), expected, atol=2e-3)
    np.testing.assert_allclose(fitted["b2"].numpy(), bias, atol=2e-3)
    np.testing.assert_array_equal(fitted["w1"].numpy(), network.weights["w1"][:, kept])


def test_a_node_that_reads_the_samples_keeps_its_sampled_weights() -> None:
    network = integral(residual_convnet(), {"x": smooth_images(48)})
    sizes = dict.fromkeys(network.structure.full_sizes(), 5)
    _, found = walked(network, sizes, SEQUENTIAL)
    candidate = found["sequential"]
    assert torch.equal(candidate.fitted["w0"], candidate.sampled["w0"])
    assert not torch.equal(candidate.fitted["w1"], candidate.sampled["w1"])


def error(loaded: LoadedNetwork, candidate: SizedModel, samples: Mapping[str, Array]) -> float:
    full, sized = outputs(loaded, candidate, samples)
    return float(divergence(full, sized, OutputKind.LOGITS).mean())


def test_on_held_out_samples_sequential_beats_one_shot_and_that_beats_sampling() -> None:
    network = integral(residual_convnet(16), {"x": smooth_images(256)})
    sizes = dict.fromkeys(network.structure.full_sizes(), 8)
    loaded, found = walked(network, sizes, ONE_SHOT, HYBRID, SEQUENTIAL)
    held_out = {"x": smooth_images(128, seed=9)}
    errors = {name: error(loaded, candidate, held_out) for name, candidate in found.items()}
    candidate = found["sequential"]
    candidate.fitted = dict(candidate.sampled)
    sampled = error(loaded, candidate, held_out)
    assert errors["sequential"] < errors["one-shot"] < sampled
    assert errors["hybrid"] < errors["one-shot"]


def residual_of_identity() -> onnx.ModelProto:
    """y = head(x A + relu(x B) C): linear shortcut and a branch of four units."""
    return model_of(
        [
            node("Gemm", "x a", "s"),
            node("Gemm", "x b", "h"),
            node("Relu", "h", "r"),
            node("Gemm", "r c", "t"),
            node("Add", "t s", "m"),
            node("Gemm", "m w", "y"),
        ],
        weights={"a": (6, 10), "b": (6, 8), "c": (8, 10), "w": (10, 5)},
        inputs={"x": (6,)},
    )


def test_a_branch_is_fitted_to_what_the_sum_should_be() -> None:
    """The branch's target is full(sum) - sized(shortcut): with the shortcut spoilt, the branch makes up for it."""
    network = integral(residual_of_identity(), {"x": gaussian(500, 6)})
    loaded = engine_of(network)
    sizes = network.structure.full_sizes()
    kept = selections(network.orders, sizes)
    candidate = SizedModel("c", network, loaded.weights, kept, EXACT, device=CPU)
    spoilt = candidate.fitted["a"] + 0.3 * torch.from_numpy(gaussian(6, 10, seed=5))
    candidate.fitted["a"] = spoilt
    LockstepFit(network, loaded.program, loaded.weights, [candidate]).run(loaded.chunks(network.calibration))
    x = network.calibration["x"].astype(np.float64)
    w = {name: array.astype(np.float64) for name, array in network.weights.items()}
    rows = np.maximum(x @ w["b"], 0)
    target = rows @ w["c"] + x @ w["a"] - x @ spoilt.numpy().astype(np.float64)
    expected = np.linalg.lstsq(rows, target, rcond=None)[0]
    np.testing.assert_allclose(candidate.fitted["c"].numpy(), expected, atol=2e-3)
    assert not np.allclose(expected, w["c"], atol=1e-2)


def test_the_walk_is_deterministic_and_does_not_depend_on_its_company() -> None:
    network = integral(residual_convnet(), {"x": smooth_images(64)})
    sizes = dict.fromkeys(network.structure.full_sizes(), 4)
    _, alone = walked(network, sizes, SEQUENTIAL)
    _, together = walked(network, sizes, ONE_SHOT, SEQUENTIAL, HYBRID)
    for name, weight in alone["sequential"].fitted.items():
        assert torch.equal(weight, together["sequential"].fitted[name])


def test_progress_rises_to_the_end() -> None:
    network = integral(mlp(), {"x": gaussian(64, 6)})
    loaded = engine_of(network)
    kept = selections(network.orders, dict.fromkeys(network.structure.full_sizes(), 5))
    candidate = SizedModel("c", network, loaded.weights, kept, SEQUENTIAL, device=CPU)
    seen: list[float] = []
    walk = LockstepFit(network, loaded.program, loaded.weights, [candidate])
    walk.run(loaded.chunks(network.calibration), lambda _, share: seen.append(share))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("blocks", [2, 8])
def test_grouped_and_depthwise_nodes_are_fitted_block_by_block(operator: str, blocks: int) -> None:
    """At full size every block's own least squares gives the weights back."""
    model = model_of(
        [
            node("Conv", "x w0", "h"),
            node("Relu", "h", "r"),
            node(operator, "r wg bg", "g", group=blocks),
            node("Conv", "g w2", "y"),
        ],
        weights={"w0": (8, 3, 1, 1), "wg": (8, 8 // blocks, 3, 3), "bg": (8,), "w2": (5, 8, 1, 1)},
        inputs={"x": (3, 8, 8)},
    )
    network = integral(model, {"x": gaussian(40, 3, 8, 8)})
    _, found = walked(network, network.structure.full_sizes(), EXACT)
    for name, weight in network.weights.items():
        np.testing.assert_allclose(found[EXACT.name].fitted[name].numpy(), weight, atol=2e-3)
