"""Statistics and greedy order against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from inn_core.fitting.channel_order import ConsumerStatistics, consumer_statistics, greedy_order
from inn_core.fitting.channel_statistics import collect_statistics
from inn_core.fitting.divergence import OutputKind, divergence
from inn_core.fitting.runtime import LoadedNetwork
from inn_core.graph.analysis.template import make_template

SAMPLES, FEATURES, HIDDEN, CLASSES = 400, 5, 8, 4


def two_layers() -> LoadedNetwork:
    random = np.random.default_rng(0)
    initializers = [
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        for name, shape in {
            "w1": (HIDDEN, FEATURES),
            "b1": (HIDDEN,),
            "w2": (CLASSES, HIDDEN),
            "b2": (CLASSES,),
        }.items()
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "first", transB=1),
            helper.make_node("Relu", ["h"], ["r"], "relu"),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["logits"], "second", transB=1),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    found = make_template(model, {"x": (FEATURES,)})
    return LoadedNetwork.build(found.template, found.structure, found.weights, torch.device("cpu"))


def samples() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(SAMPLES, FEATURES)).astype(np.float32)


def test_means_and_covariances_are_those_of_numpy() -> None:
    loaded = two_layers()
    chunks = [{"x": torch.from_numpy(part)} for part in np.array_split(samples(), 7)]
    first, second = collect_statistics(loaded.program, loaded.structure, loaded.weights, chunks)
    hidden = np.maximum(samples() @ loaded.weights["w1"].numpy().T + loaded.weights["b1"].numpy(), 0)
    for point, data in ((first, samples()), (second, hidden)):
        assert np.allclose(point.mean, data.mean(0), atol=1e-5)
        assert np.allclose(point.covariance, np.cov(data.T, bias=True), atol=1e-4)


def test_fisher_information_of_logits_is_the_variance_of_the_drawn_class() -> None:
    """For a softmax, E (onehot(y) - p)^2 = p (1 - p) under y drawn from p."""
    loaded = two_layers()
    chunks = [{"x": torch.from_numpy(np.tile(samples(), (40, 1)))}]
    _, second = collect_statistics(loaded.program, loaded.structure, loaded.weights, chunks)
    logits = loaded.program.run(loaded.weights, {"x": torch.from_numpy(samples())})["logits"]
    p = logits.softmax(1)
    assert np.allclose(second.fisher, (p * (1 - p)).mean(0), rtol=0.05)


def test_half_the_fisher_information_times_the_error_is_the_divergence() -> None:
    loaded = two_layers()
    chunks = [{"x": torch.from_numpy(np.tile(samples(), (40, 1)))}]
    _, second = collect_statistics(loaded.program, loaded.structure, loaded.weights, chunks)
    logits = loaded.program.run(loaded.weights, {"x": torch.from_numpy(samples())})["logits"]
    for channel in range(CLASSES):
        error = torch.zeros(CLASSES)
        error[channel] = 1e-2
        found = divergence(logits.double(), (logits + error).double(), OutputKind.LOGITS).mean()
        assert float(found) == pytest.approx(0.5 * float(second.fisher[channel]) * 1e-4, rel=0.1)


def explained(demand: ConsumerStatistics, chosen: list[int]) -> float:
    """Half the trace of A times the covariance that the chosen channels leave unexplained, from the definition."""
    c = demand.covariance.numpy()
    left = c.copy()
    if chosen:
        left -= c[:, chosen] @ np.linalg.pinv(c[np.ix_(chosen, chosen)], rcond=1e-12) @ c[chosen]
    return 0.5 * float(np.trace(demand.weighting.numpy() @ left))


def random_demands(count: int) -> list[ConsumerStatistics]:
    generator = torch.Generator().manual_seed(count)
    demands = []
    for _ in range(count):
        a, b = (torch.randn(HIDDEN, HIDDEN, generator=generator, dtype=torch.float64) for _ in range(2))
        demands.append(ConsumerStatistics(a @ a.T, b @ b.T))
    return demands


@pytest.mark.parametrize("count", [1, 3])
def test_the_damage_curve_is_the_unexplained_trace_of_every_prefix(count: int) -> None:
    demands = random_demands(count)
    found = greedy_order(demands)
    assert sorted(found.order) == list(range(HIDDEN))
    for m in range(HIDDEN + 1):
        expected = sum(explained(demand, list(found.order[:m])) for demand in demands)
        assert found.damage[m] == pytest.approx(expected, abs=1e-6 * found.damage[0])


@pytest.mark.parametrize("count", [1, 3])
def test_every_pick_is_the_best_single_channel(count: int) -> None:
    demands = random_demands(count)
    found = greedy_order(demands)
    for m in range(HIDDEN - 1):
        prefix = list(found.order[:m])
        rest = [j for j in range(HIDDEN) if j not in prefix]
        left = {j: sum(explained(demand, [*prefix, j]) for demand in demands) for j in rest}
        assert left[int(found.order[m])] == pytest.approx(min(left.values()), rel=1e-9)


def test_the_greedy_pair_is_close_to_the_best_pair() -> None:
    (demand,) = random_demands(1)
    found = greedy_order([demand])
    best = min(explained(demand, list(pair)) for pair in itertools.combinations(range(HIDDEN), 2))
    assert found.damage[2] <= 1.5 * best


def test_copies_of_a_channel_cost_nothing_to_drop() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, HIDDEN // 2, generator=generator, dtype=torch.float64)
    rows = torch.cat([rows, rows], 1)
    found = greedy_order([ConsumerStatistics(torch.cov(rows.T), torch.eye(HIDDEN, dtype=torch.float64))])
    assert len({int(j) % (HIDDEN // 2) for j in found.order[: HIDDEN // 2]}) == HIDDEN // 2
    assert found.damage[HIDDEN // 2] < 1e-9 * found.damage[0]


def test_a_flattened_map_is_judged_by_its_channels() -> None:
    random = np.random.default_rng(0)
    initializers = [
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        for name, shape in {"w1": (6, 2, 3, 3), "w2": (CLASSES, 6 * 16)}.items()
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["h"], "conv", pads=[1] * 4),
            helper.make_node("Flatten", ["h"], ["f"], "flatten"),
            helper.make_node("Gemm", ["f", "w2"], ["logits"], "head", transB=1),
        ],
        "flat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    found = make_template(model, {"x": (2, 4, 4)})
    loaded = LoadedNetwork.build(found.template, found.structure, found.weights, torch.device("cpu"))
    x = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    points = collect_statistics(loaded.program, loaded.structure, loaded.weights, [{"x": x}])
    head = points[1]
    assert head.layout == (1, 6, 16)
    h = loaded.program.run(loaded.weights, {"x": x}, keep=["h"])["h"].transpose(0, 1).reshape(6, -1)
    assert np.allclose(head.covariance, np.cov(h.numpy(), bias=True), atol=1e-4)
    (demand,) = consumer_statistics(loaded.structure, points, loaded.weights)["w1"]
    w = loaded.weights["w2"].double().reshape(CLASSES, 6, 16)
    expected = torch.einsum("o,oap,obp->ab", head.fisher, w, w)
    assert torch.allclose(demand.weighting, expected, rtol=1e-6)
