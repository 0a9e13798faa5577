"""What statistics say of layouts, positions and kinds of outputs; means, covariances and Fisher: test_ordering.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inn_core.fitting.channel_statistics import axis_layout, channel_axis, collect_statistics, output_kinds
from inn_core.fitting.divergence import OutputKind
from inn_core.graph.axis import Axis
from tests.inn_core.graph.tiny import model_of, node
from tests.inn_core.trained_networks import engine_of, gaussian, integral, mlp

FULL = {"a": 6, "b": 4}


@pytest.mark.parametrize(
    ("axis", "layout"),
    [
        ((("a",),), (1, 6, 1)),
        ((("a", 16),), (1, 6, 16)),
        (((2, "a"),), (2, 6, 1)),
        (((2, "a", 3),), (2, 6, 3)),
        ((("a",), ("b",)), (1, 10, 1)),
        ((("a", "b"),), (1, 24, 1)),
        ((("a", "a"),), (1, 36, 1)),
        (((7,),), (1, 7, 1)),
        (((3,), ("a",)), (1, 9, 1)),
    ],
)
def test_an_axis_is_read_by_its_one_group_or_whole(axis: Axis, layout: tuple[int, int, int]) -> None:
    assert axis_layout(axis, FULL) == layout


def test_convolutions_pool_over_samples_and_positions_of_their_input() -> None:
    model = model_of(
        [node("Conv", "x w1", "h"), node("Relu", "h", "r"), node("Conv", "r w2", "y")],
        weights={"w1": (6, 3, 1, 1), "w2": (5, 6, 1, 1)},
        inputs={"x": (3, 4, 4)},
    )
    network = integral(model, {"x": gaussian(30, 3, 4, 4)})
    loaded = engine_of(network)
    points = collect_statistics(loaded.program, network.structure, loaded.weights, loaded.chunks(network.calibration))
    x = network.calibration["x"]
    hidden = np.maximum(np.einsum("nchw,oc->nohw", x, network.weights["w1"][:, :, 0, 0]), 0)
    for point, data in zip(points, (x, hidden), strict=True):
        rows = data.transpose(0, 2, 3, 1).reshape(-1, data.shape[1])
        np.testing.assert_allclose(point.mean, rows.mean(0), atol=1e-5)
        np.testing.assert_allclose(point.covariance, np.cov(rows.T, bias=True), atol=1e-5)
        assert point.fisher.shape == (len(network.weights[point.entry.weight]),)
    assert channel_axis(network.structure, points[1].entry) == (("w1",),)


def test_fisher_of_values_is_the_squared_gradient_of_the_relative_error() -> None:
    """For values v with mean power P, divergence = |error|^2 / (n P), so Fisher is 2 / (n P) for each element."""
    model = model_of(
        [node("Conv", "x w1", "h"), node("Relu", "h", "r"), node("Conv", "r w2", "y")],
        weights={"w1": (6, 3, 1, 1), "w2": (2, 6, 1, 1)},
        inputs={"x": (3, 4, 4)},
    )
    network = integral(model, {"x": gaussian(200, 3, 4, 4)})
    loaded = engine_of(network)
    chunks = loaded.chunks(network.calibration)
    _, second = collect_statistics(loaded.program, network.structure, loaded.weights, chunks)
    power = float(loaded.program.run(loaded.weights, chunks[0])["y"].square().mean())
    n = 2 * 16
    np.testing.assert_allclose(second.fisher, np.full(2, 16 * 2 / (n * power)), rtol=0.1)


def test_without_fisher_nothing_runs_backwards() -> None:
    network = integral(mlp(), {"x": gaussian(40, 6)})
    loaded = engine_of(network)
    chunks = loaded.chunks(network.calibration)
    points = collect_statistics(loaded.program, network.structure, loaded.weights, chunks, fisher=False)
    assert all(point.fisher.numel() == 0 for point in points)


def test_statistics_do_not_depend_on_how_samples_are_cut_into_chunks() -> None:
    network = integral(mlp(), {"x": gaussian(90, 6) + 100})
    loaded = engine_of(network)
    x = torch.from_numpy(network.calibration["x"])
    results = [
        collect_statistics(loaded.program, network.structure, loaded.weights, chunks, fisher=False)
        for chunks in ([{"x": x}], [{"x": part} for part in x.split(17)])
    ]
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-5)
        np.testing.assert_allclose(one.covariance, other.covariance, rtol=1e-3, atol=1e-3)


def test_kinds_of_outputs_come_from_their_writers() -> None:
    model = model_of(
        [node("Gemm", "x w", "h"), node("Softmax", "h", "p"), node("ArgMax", "h", "i")],
        weights={"w": (4, 5)},
        inputs={"x": (4,)},
        outputs=("h", "p"),
    )
    network = integral(model, {"x": gaussian(10, 4)})
    loaded = engine_of(network)
    outputs = loaded.program.run(loaded.weights, loaded.chunks(network.calibration)[0])
    outputs["i"] = outputs["h"].argmax(1)
    kinds = output_kinds(loaded.program, outputs)
    assert kinds == {"h": OutputKind.LOGITS, "p": OutputKind.PROBABILITIES}
