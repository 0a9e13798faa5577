"""`instant` against the closed form of one knot with numpy, and what holds at and between knots."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.discretize.instant import instant_weights
from inn_core.fitting.channel_statistics import collect_statistics
from inn_core.graph.axis import axis_size
from inn_core.graph.cost import CostModel
from inn_core.importing.anchors import make_anchors
from inn_core.progress import no_progress
from inn_core.sized.anchors import contains, make_anchor
from tests.inn_core.trained_networks import CPU, engine_of, gaussian, integral, mlp, residual_convnet, smooth_images

HALF_PRECISION = 2e-3  # correlations and knot weights are stored in float16


def with_one_knot(checkpoint: Checkpoint) -> Checkpoint:
    """Only the full network's own statistics: every size is one reduction."""
    loaded = engine_of(checkpoint)
    chunks = loaded.chunks(checkpoint.calibration)
    points = collect_statistics(loaded.program, checkpoint.structure, loaded.weights, chunks, fisher=False)
    resizable = [point for point in points if point.entry.data not in loaded.program.inputs]
    return replace(checkpoint, anchors=(make_anchor(checkpoint.structure.full_sizes(), {}, resizable),))


def with_knots(checkpoint: Checkpoint) -> Checkpoint:
    loaded = engine_of(checkpoint)
    points = collect_statistics(
        loaded.program, checkpoint.structure, loaded.weights, loaded.chunks(checkpoint.calibration), fisher=False
    )
    cost = CostModel.of(checkpoint.template, checkpoint.structure)
    return replace(checkpoint, anchors=make_anchors(checkpoint, cost, loaded, points, no_progress))


@pytest.fixture(scope="module")
def knotted() -> Checkpoint:
    return with_knots(integral(residual_convnet(), {"x": smooth_images(64)}))


def test_one_knot_gives_the_closed_form_of_numpy() -> None:
    """W' = W_k + W_r X, X = S_rk (S_kk + 0.01 diag)^-1; b' = b + W_r (mean_r - X mean_k)."""
    samples = gaussian(400, 6)
    order = np.random.default_rng(3).permutation(12)
    network = with_one_knot(integral(mlp(), {"x": samples}, orders={"w1:1": order.tolist()}))
    first, second = network.structure.full_sizes()
    found = instant_weights(network, {first: 7, second: 12}, device=CPU)
    w = {name: array.astype(np.float64) for name, array in network.weights.items()}
    hidden = np.maximum(samples @ w["w1"] + w["b1"], 0)
    kept = np.sort(network.orders[first][:7])
    gone = np.setdiff1d(np.arange(12), kept)
    covariance = np.cov(hidden.T, bias=True)
    within = covariance[np.ix_(kept, kept)]
    x = covariance[np.ix_(gone, kept)] @ np.linalg.inv(within + 1e-2 * np.diag(within.diagonal()))
    mean = hidden.mean(0)
    np.testing.assert_allclose(found["w2"], w["w2"][kept] + x.T @ w["w2"][gone], atol=HALF_PRECISION)
    bias = w["b2"] + (mean[gone] - x @ mean[kept]) @ w["w2"][gone]
    np.testing.assert_allclose(found["b2"], bias, atol=HALF_PRECISION)
    np.testing.assert_array_equal(found["w1"], network.weights["w1"][:, kept])
    np.testing.assert_array_equal(found["w3"], network.weights["w3"])


def test_a_bias_is_corrected_for_both_axes_whatever_comes_first() -> None:
    """Both hidden layers shrink: the bias of the second is corrected for the first and sampled for itself."""
    samples = gaussian(400, 6)
    network = with_one_knot(integral(mlp(), {"x": samples}))
    first, second = network.structure.full_sizes()
    only_first = instant_weights(network, {first: 7, second: 12}, device=CPU)
    both = instant_weights(network, {first: 7, second: 5}, device=CPU)
    kept = np.sort(network.orders[second][:5])
    np.testing.assert_allclose(both["b2"], only_first["b2"][kept], atol=1e-6)
    np.testing.assert_allclose(both["w2"], only_first["w2"][:, kept], atol=1e-6)


def test_the_full_knot_is_the_checkpoint(knotted: Checkpoint) -> None:
    found = instant_weights(knotted, knotted.structure.full_sizes(), device=CPU)
    for name, weight in knotted.weights.items():
        np.testing.assert_array_equal(found[name], weight)


def test_at_a_knot_the_weights_are_those_stored(knotted: Checkpoint) -> None:
    knots = knotted.anchors
    assert len(knots) > 3
    for knot in knots[1:]:
        found = instant_weights(knotted, knot.sizes, device=CPU)
        for name, weight in found.items():
            np.testing.assert_array_equal(weight, knot.weights[name].astype(weight.dtype))


def test_knots_are_nested_and_get_smaller(knotted: Checkpoint) -> None:
    knots = knotted.anchors
    cost = CostModel.of(knotted.template, knotted.structure)
    params = [int(cost.evaluate("params", cost.to_row(knot.sizes))[0]) for knot in knots]
    assert dict(knots[0].sizes) == knotted.structure.full_sizes()
    for larger, smaller in itertools.pairwise(knots):
        assert contains(larger.sizes, smaller.sizes)
    assert params == sorted(params, reverse=True)
    assert params[-1] < 0.1 * params[0]


def test_between_knots_weights_are_finite_with_the_planned_shapes(knotted: Checkpoint) -> None:
    random = np.random.default_rng(0)
    full = knotted.structure.full_sizes()
    for _ in range(20):
        sizes = {name: int(random.integers(1, size + 1)) for name, size in full.items()}
        found = instant_weights(knotted, sizes, device=CPU)
        for name, axes in knotted.structure.weights.items():
            assert found[name].shape == tuple(axis_size(axis, sizes) for axis in axes)
            assert found[name].dtype == knotted.weights[name].dtype
            assert np.isfinite(found[name]).all()


def test_equal_requests_give_equal_bytes(knotted: Checkpoint) -> None:
    sizes = dict.fromkeys(knotted.structure.full_sizes(), 3)
    once, again = (instant_weights(knotted, sizes, device=CPU) for _ in "ab")
    assert all(once[name].tobytes() == again[name].tobytes() for name in once)
