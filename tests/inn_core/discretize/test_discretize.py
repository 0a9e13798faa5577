"""From plan to weights: full size untouched, refined chosen on held-out samples, requests repeatable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from scipy.special import log_softmax

import inn_core.discretize.discretize
from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import AnchorNetwork, Checkpoint
from inn_core.discretize.discretize import discretize
from inn_core.discretize.uniform import trained_weights
from inn_core.errors import DeviceError, QualityUnavailableError
from inn_core.fitting.lockstep import METHODS
from inn_core.graph.axis import axis_size
from inn_core.graph.resized import resize_template
from inn_core.planning.plan import Budget, Plan, choose_plan, feasible_range
from inn_core.training.integral_network import IntegralNetwork
from inn_core.training.loop import train_sizes_
from inn_core.training.settings import SizeTraining
from tests.inn_core.graph.tiny import run
from tests.inn_core.sized_networks import Repeated
from tests.inn_core.trained_networks import gaussian, integral, mlp, residual_convnet, smooth_images


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return integral(mlp(features=8, hidden=16), {"x": gaussian(160, 8)})


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Distillation has its own tests; here the least-squares methods are compared."""
    if "distilled" not in request.node.name:
        monkeypatch.setattr(inn_core.discretize.discretize, "affordable_epochs", lambda *_: 0)


def half(checkpoint: Checkpoint) -> Plan:
    return choose_plan(checkpoint, Budget("params", sum(feasible_range(checkpoint, "params")) // 2))


def test_the_full_size_is_the_checkpoint_untouched(checkpoint: Checkpoint) -> None:
    plan = choose_plan(checkpoint, Budget("params", 10**9))
    found = discretize(checkpoint, plan, device="cpu")
    assert (found.method, found.held_out) == ("full", None)
    for name, weight in checkpoint.weights.items():
        assert np.shares_memory(found.weights[name], weight)


def test_refined_weights_have_the_planned_shapes_and_dtypes(checkpoint: Checkpoint) -> None:
    plan = half(checkpoint)
    found = discretize(checkpoint, plan, device="cpu")
    for name, axes in checkpoint.structure.weights.items():
        assert found.weights[name].shape == tuple(axis_size(axis, plan.sizes) for axis in axes)
        assert found.weights[name].dtype == checkpoint.weights[name].dtype
        assert np.isfinite(found.weights[name]).all()
    assert sum(weight.size for weight in found.weights.values()) == plan.params


def test_the_method_and_its_held_out_divergence_are_reported(checkpoint: Checkpoint) -> None:
    found = discretize(checkpoint, half(checkpoint), device="cpu")
    assert found.method in {method.name for method in METHODS}
    assert found.held_out is not None
    assert found.held_out > 0


def test_the_method_with_the_least_held_out_divergence_is_kept(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores are dictated, in the order of the methods; the smallest must win."""
    for winner in range(len(METHODS)):
        scores = [1.0] * len(METHODS)
        scores[winner] = 0.25
        monkeypatch.setattr(inn_core.discretize.discretize, "mean_divergence", lambda *_, left=scores: left.pop(0))
        found = discretize(checkpoint, half(checkpoint), device="cpu")
        assert (found.method, found.held_out) == (METHODS[winner].name, 0.25)


def test_equal_requests_give_equal_bytes() -> None:
    """Networks of their own, so that nothing is remembered between the two."""
    results = []
    for _ in range(2):
        network = integral(residual_convnet(), {"x": smooth_images(48)})
        results.append(discretize(network, half(network), device="cpu"))
    assert (results[0].method, results[0].held_out) == (results[1].method, results[1].held_out)
    for name, weight in results[0].weights.items():
        assert weight.tobytes() == results[1].weights[name].tobytes()


def test_equal_requests_give_equal_bytes_distilled() -> None:
    results = []
    for _ in range(2):
        network = integral(mlp(features=8, hidden=16), {"x": gaussian(160, 8)})
        plan = choose_plan(network, Budget("params", int(feasible_range(network, "params")[1] * 0.2)))
        results.append(discretize(network, plan, device="cpu"))
    assert results[0].method == results[1].method == "distilled"
    for name, weight in results[0].weights.items():
        assert weight.tobytes() == results[1].weights[name].tobytes()


def test_a_larger_plan_is_closer_to_the_full_network(checkpoint: Checkpoint) -> None:
    maximum = feasible_range(checkpoint, "params")[1]
    held_out = []
    for share in (0.2, 0.4, 0.8):
        found = discretize(checkpoint, choose_plan(checkpoint, Budget("params", int(maximum * share))), device="cpu")
        assert found.held_out is not None
        held_out.append(found.held_out)
    assert held_out == sorted(held_out, reverse=True)


def test_without_samples_refined_is_not_available(checkpoint: Checkpoint) -> None:
    bare = replace(checkpoint, calibration={}, anchors=(AnchorNetwork(checkpoint.structure.full_sizes(), {}, {}),))
    with pytest.raises(QualityUnavailableError, match="keeps no calibration samples; use one of: instant"):
        discretize(bare, half(checkpoint), quality="refined", device="cpu")


def test_without_knots_instant_is_not_available(checkpoint: Checkpoint) -> None:
    with pytest.raises(QualityUnavailableError, match="keeps no knots; use one of: refined"):
        discretize(checkpoint, half(checkpoint), quality="instant", device="cpu")


def test_an_unknown_quality_or_device_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(QualityUnavailableError, match="'best' is not available: there is no such quality"):
        discretize(checkpoint, half(checkpoint), quality="best", device="cpu")
    with pytest.raises(DeviceError, match="device 'abacus' is unknown; use auto, cpu or cuda"):
        discretize(checkpoint, half(checkpoint), device="abacus")


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_progress_rises_to_one_also_with_distilled_candidates(checkpoint: Checkpoint, share: float) -> None:
    """At 0.9 of the parameters distillation is tried and loses, at 0.2 it wins."""
    seen: list[float] = []
    plan = choose_plan(checkpoint, Budget("params", int(feasible_range(checkpoint, "params")[1] * share)))
    discretize(checkpoint, plan, device="cpu", progress=lambda _, done: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)


@pytest.fixture(scope="module")
def trained(checkpoint: Checkpoint) -> Checkpoint:
    """Every size taught on the samples, without labels."""
    made = IntegralNetwork(checkpoint, smallest=0.2)
    inputs = torch.from_numpy(np.array(checkpoint.calibration["x"]))
    settings = SizeTraining(epochs=30, optimizer="adam", peak_rate=0.01)
    train_sizes_(made, Repeated(inputs, torch.zeros(len(inputs)), 40), settings=settings)
    return made.to_checkpoint()


def test_the_trained_size_is_one_more_candidate(trained: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are dictated: those of the methods first, that of the trained size last; it wins a tie."""
    expected = trained_weights(trained, half(trained).sizes, device=torch.device("cpu"))
    for score, wins in ((0.25, True), (1.0, True), (1.5, False)):
        scores = [1.0] * len(METHODS) + [score]
        monkeypatch.setattr(inn_core.discretize.discretize, "mean_divergence", lambda *_, left=scores: left.pop(0))
        found = discretize(trained, half(trained), device="cpu")
        assert (found.method == "trained") == wins
        assert found.held_out == min(score, 1.0)
        if wins:
            for name, weight in expected.items():
                np.testing.assert_array_equal(found.weights[name], weight)


@pytest.mark.parametrize(
    ("trained_score", "taught_score", "method", "starts_trained"),
    [
        (0.25, 0.5, "trained", True),  # better than every fit, and not than the trained size
        (0.25, 0.1, "distilled", True),
        (1.5, 0.5, "distilled", False),
        (1.5, 1.2, "one-shot", False),
    ],
)
def test_a_distilled_candidate_has_to_beat_the_fits_and_the_trained_size(
    trained: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    trained_score: float,
    taught_score: float,
    method: str,
    starts_trained: bool,
) -> None:
    """Scores are dictated: those of the methods, of the trained size and of the distilled candidate."""
    expected = trained_weights(trained, half(trained).sizes, device=torch.device("cpu"))
    scores = [1.0] * len(METHODS) + [trained_score, taught_score]
    starts: list[bool] = []

    def taught(*arguments: Any, **_: Any) -> Any:
        start = arguments[3]
        starts.append(all(np.array_equal(start[name].numpy(), weight) for name, weight in expected.items()))
        return start

    monkeypatch.setattr(inn_core.discretize.discretize, "mean_divergence", lambda *_: scores.pop(0))
    monkeypatch.setattr(inn_core.discretize.discretize, "affordable_epochs", lambda *_: 1)
    monkeypatch.setattr(inn_core.discretize.discretize, "distill", taught)
    found = discretize(trained, half(trained), device="cpu")
    assert (found.method, found.held_out) == (method, min(1.0, trained_score, taught_score))
    assert starts == [starts_trained]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_refined_is_never_worse_than_the_trained_size_on_held_out_samples(trained: Checkpoint, share: float) -> None:
    """The blocks held out are every fourth of sixteen; ONNX Runtime judges both, and scipy knows the divergence."""
    low, high = feasible_range(trained, "params")
    plan = choose_plan(trained, Budget("params", int(low + share * (high - low))))
    refined = discretize(trained, plan, device="cpu")
    sized = discretize(trained, plan, quality="trained", device="cpu")
    assert sized.method == "trained"
    held_out = np.arange(160)[np.arange(160) // 10 % 4 == 3]
    samples = {"x": trained.calibration["x"][held_out]}
    full = discretize(trained, choose_plan(trained, Budget("params", 10**9)), device="cpu")
    whole = log_softmax(run_sized(trained, trained.structure.full_sizes(), full.weights, samples), axis=1)
    logs = log_softmax(run_sized(trained, plan.sizes, sized.weights, samples), axis=1)
    trained_score = float((np.exp(whole) * (whole - logs)).sum(1).mean())
    assert refined.held_out is not None
    assert refined.held_out <= trained_score * (1 + 1e-4)
    if refined.method == "trained":
        assert refined.held_out == pytest.approx(trained_score, rel=1e-4)


def run_sized(checkpoint: Checkpoint, sizes: Mapping[str, int], weights: Mapping[str, Array], samples: Any) -> Array:
    model = resize_template(checkpoint.template, checkpoint.structure, sizes)
    for name in checkpoint.template.weights:
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weights[name]), name))
    return run(model, samples)[0]


def test_a_trained_size_wins_where_it_is_best() -> None:
    """Least squares have two dozen samples to fit, training saw many more."""
    few = integral(mlp(features=8, hidden=16), {"x": gaussian(24, 8)})
    made = IntegralNetwork(few, smallest=0.2)
    inputs = torch.from_numpy(gaussian(1000, 8, seed=5))
    settings = SizeTraining(epochs=12, optimizer="adam", peak_rate=0.01)
    train_sizes_(made, Repeated(inputs, torch.zeros(len(inputs)), 50), settings=settings)
    made.measure_(inputs)
    trained = made.to_checkpoint()
    low, high = feasible_range(trained, "params")
    plan = choose_plan(trained, Budget("params", int(low + 0.4 * (high - low))))
    found = discretize(trained, plan, device="cpu")
    assert found.method == "trained"
    for name, weight in discretize(trained, plan, quality="trained", device="cpu").weights.items():
        np.testing.assert_array_equal(found.weights[name], weight)


def test_an_untrained_network_has_no_trained_size(checkpoint: Checkpoint) -> None:
    with pytest.raises(QualityUnavailableError, match="was not trained in its sizes"):
        discretize(checkpoint, half(checkpoint), quality="trained", device="cpu")
