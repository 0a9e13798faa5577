"""Where knots stand on the size path, and how they lie in a checkpoint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.fitting.channel_statistics import collect_statistics
from inn_core.graph.cost import CostModel
from inn_core.importing.anchors import DENSE_RATIO, LEAST_SHARE, SPARSE_RATIO, anchor_sizes, make_anchors
from tests.inn_core.networks import basic_resnet, resnet50_shape
from tests.inn_core.trained_networks import engine_of, gaussian, integral, mlp


@pytest.mark.parametrize(("build", "ratio"), [(basic_resnet, DENSE_RATIO), (resnet50_shape, SPARSE_RATIO)])
def test_parameters_fall_by_a_constant_ratio(build: object, ratio: float) -> None:
    assert callable(build)
    network: Checkpoint = build()
    cost = CostModel.of(network.template, network.structure)
    full = int(cost.evaluate("params", cost.full()[None])[0])
    params = [int(cost.evaluate("params", row[None])[0]) for row in anchor_sizes(network, cost)]
    for number, found in enumerate(params, start=1):
        assert found == pytest.approx(full * ratio**number, rel=0.05)
        assert found <= full * ratio**number
    assert params[-1] >= LEAST_SHARE * full * ratio * 0.9
    smallest = int(cost.evaluate("params", cost.minimum()[None])[0])
    assert params[-1] <= max(LEAST_SHARE * full, smallest) / ratio


def test_knots_lie_on_the_size_path() -> None:
    network = basic_resnet()
    cost = CostModel.of(network.template, network.structure)
    sizes, plans = cost.full().copy(), set()
    for group in network.paths["params"]:
        sizes[group] -= 1
        plans.add(tuple(sizes))
    assert {tuple(row) for row in anchor_sizes(network, cost)} <= plans


def test_a_network_without_groups_has_only_the_full_knot() -> None:
    network = basic_resnet()
    cost = CostModel.of(network.template, network.structure)
    bare = replace(network, paths={"params": np.zeros(0, dtype=np.int32)})
    assert anchor_sizes(bare, cost) == []


def test_correlations_are_those_of_numpy() -> None:
    samples = gaussian(300, 6)
    network = integral(mlp(), {"x": samples})
    loaded = engine_of(network)
    points = collect_statistics(
        loaded.program, network.structure, loaded.weights, loaded.chunks(network.calibration), fisher=False
    )
    seen: list[float] = []
    full, *_ = make_anchors(
        network, CostModel.of(network.template, network.structure), loaded, points, lambda _, share: seen.append(share)
    )
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)
    hidden = np.maximum(samples @ network.weights["w1"] + network.weights["b1"], 0)
    stored = full.inputs["w2"].correlation
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, np.corrcoef(hidden.T)[np.tril_indices(12)], atol=2e-3)
    np.testing.assert_allclose(full.inputs["w2"].scale, hidden.std(0), rtol=1e-3)
    np.testing.assert_allclose(full.inputs["w2"].mean, hidden.mean(0), atol=1e-4)
    assert "w1" not in full.inputs
    assert "w2" not in full.weights
    assert list(full.sizes.values()) == [12, 12]
