"""Statistics of all sizes from knots: exact at knots, close in between, equal on both paths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inn_core.checkpoint.sizes_validation import MOST_KNOTS
from inn_core.fitting.divergence import OutputKind, divergence
from inn_core.graph.cost import CostModel, Unit
from inn_core.planning.plan import Budget, choose_plan
from inn_core.sized import measurement
from inn_core.sized.batch_norm import Moments
from inn_core.sized.placement import CLOSEST_RATIO, DIVERGENCE_BOUND
from inn_core.sized.size_statistics import CalibratedSize, SizeStatistics
from inn_core.training.integral_network import IntegralNetwork
from inn_core.training.loop import train_sizes_
from inn_core.training.settings import SizeTraining
from tests.inn_core.sized_networks import Repeated, inputs_of, small_residual, smoothed, with_kernels

SLACK = 3  # an interval is judged at its middle and at those of its halves only


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(output, target)


@pytest.fixture(scope="module", params=["nested", "kernel"])
def network(request: pytest.FixtureRequest) -> IntegralNetwork:
    """Trained for a few steps, and measured."""
    checkpoint = smoothed(small_residual())
    made = IntegralNetwork(checkpoint) if request.param == "nested" else with_kernels(checkpoint)
    inputs = inputs_of(checkpoint)
    labels = inputs.mean((1, 2, 3)).argsort().argsort() * 5 // len(inputs)
    settings = SizeTraining(epochs=12, peak_rate=0.1)
    train_sizes_(made, Repeated(inputs, labels, 24), settings=settings, task_loss=cross_entropy)
    made.measure_()
    return made


def moments_at(network: IntegralNetwork, sizes: dict[str, int]) -> dict[str, Moments]:
    axes = network.checkpoint.structure.weights
    return network.statistics.at(sizes, network.parts.nodes, axes, network.sampler)


def test_at_every_knot_moments_are_those_of_the_knot(network: IntegralNetwork) -> None:
    for knots in network.statistics.paths.values():
        assert len(knots) > 2
        for knot in knots:
            found = moments_at(network, dict(knot.sizes))
            for name, moments in knot.moments.items():
                torch.testing.assert_close(found[name].mean, moments.mean, rtol=0, atol=1e-7)
                torch.testing.assert_close(found[name].variance, moments.variance, rtol=3e-6, atol=1e-11)


def test_knots_are_measured_moments_along_the_paths(network: IntegralNetwork) -> None:
    checkpoint = network.checkpoint
    cost = CostModel.of(checkpoint.template, checkpoint.structure)
    batch = [{"x": inputs_of(checkpoint)}]
    for unit, knots in network.statistics.paths.items():
        gone = dict.fromkeys(checkpoint.structure.full_sizes(), 0)
        on_path = [tuple(checkpoint.structure.full_sizes().values())]
        for group in checkpoint.paths[unit]:
            gone[checkpoint.structure.groups[group].name] += 1
            on_path.append(tuple(size - gone[name] for name, size in checkpoint.structure.full_sizes().items()))
        assert next(knot.sizes for knot in knots) == checkpoint.structure.full_sizes()
        assert len(knots) <= MOST_KNOTS
        costs = [int(cost.evaluate(unit, cost.to_row(knot.sizes))[0]) for knot in knots]
        assert costs == [knot.cost for knot in knots] == sorted(costs, reverse=True)
        assert costs[-1] <= int(cost.evaluate(unit, cost.to_row(network.smallest_sizes))[0])
        for knot in knots:
            assert tuple(knot.sizes.values()) in on_path
            measured = network.moments(knot.sizes, batch)
            for name, moments in knot.moments.items():
                torch.testing.assert_close(moments.mean, measured[name].mean, rtol=0, atol=1e-6)
                torch.testing.assert_close(moments.variance, measured[name].variance, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("network", ["nested"], indirect=True)
def test_between_knots_of_nested_sizes_outputs_stay_within_the_bound(network: IntegralNetwork) -> None:
    """On all samples, against moments measured at the plan; moments of the full network alone are far worse.

    Kernels of eight channels in random order are not smooth, so with them only the knots are exact. Knots are no closer
    than CLOSEST_RATIO, so nothing is promised next to the full network.
    """
    checkpoint = network.checkpoint
    statistics = network.statistics
    full_only = SizeStatistics(statistics.cost, {unit: knots[:1] for unit, knots in statistics.paths.items()})
    largest = statistics.cost.evaluate("params", statistics.cost.full()[None])[0]
    row = statistics.cost.full()
    found, poor = [], []
    for group in checkpoint.paths["params"]:
        row[group] -= 1
        if statistics.cost.evaluate("params", row[None])[0] > CLOSEST_RATIO * largest:
            continue
        near, far = difference(network, statistics, row), difference(network, full_only, row)
        found.append(near)
        poor.append(far)
    assert max(found) < SLACK * DIVERGENCE_BOUND
    assert max(poor) > 4 * max(found)
    off_path = []
    for params in np.geomspace(0.9 * largest, 0.06 * largest, 30):
        sizes = choose_plan(checkpoint, Budget("params", round(float(params)))).sizes
        off_path.append(difference(network, statistics, statistics.cost.to_row(sizes)[0]))
    assert float(np.median(off_path)) < DIVERGENCE_BOUND
    assert max(off_path) < 50 * DIVERGENCE_BOUND  # of eight channels each, a plan may be far from both paths


def difference(network: IntegralNetwork, statistics: SizeStatistics, row: Any) -> float:
    """Divergence of outputs with the given statistics from those with moments of the plan itself."""
    sizes = statistics.cost.to_sizes(row)
    inputs = inputs_of(network.checkpoint)
    axes = network.checkpoint.structure.weights
    moments = statistics.at(sizes, network.parts.nodes, axes, network.sampler)
    with torch.no_grad():
        exact = network.train()(inputs, sizes=sizes)
    found = network.outputs(sizes, [{"x": inputs}], moments)["y"]
    return float(divergence(exact, found, OutputKind.LOGITS).mean())


def test_a_channel_that_dies_between_knots_keeps_the_weights_in_bounds() -> None:
    """A geometric mean of 0 and 1 is 0, and its reciprocal would be folded into the weights."""
    checkpoint = small_residual()
    network = IntegralNetwork(checkpoint)
    cost = CostModel.of(checkpoint.template, checkpoint.structure)
    knots = []
    for sizes, deviation in (((8, 8), 1.0), ((1, 1), 0.0)):
        named = dict(zip(checkpoint.structure.full_sizes(), sizes, strict=True))
        lengths = {"w0": sizes[0], "w1": sizes[1], "w2": sizes[0]}
        moments = {name: Moments(torch.zeros(n), torch.full((n,), deviation**2)) for name, n in lengths.items()}
        knots.append(CalibratedSize(int(cost.evaluate("params", cost.to_row(named))[0]), named, moments))
    statistics = SizeStatistics(cost, {"params": knots, "macs": knots})
    for size in range(2, 8):
        sizes = dict.fromkeys(checkpoint.structure.full_sizes(), size)
        own = int(cost.evaluate("params", cost.to_row(sizes))[0])
        by_cost = math.log(knots[0].cost / own) / math.log(knots[0].cost / knots[1].cost)
        by_channels = (8 - size) / 7
        found = statistics.at(sizes, network.parts.nodes, checkpoint.structure.weights, network.sampler)
        for name, share in (("w0", by_cost), ("w1", by_channels), ("w2", by_channels)):  # w0 reads the image
            assert float(found[name].deviation().min()) > 0.99 * (1 - share)


def test_a_plan_on_both_paths_has_one_answer() -> None:
    """Whichever path is asked first: the same plan with the same moments at a knot of each."""
    network = IntegralNetwork(small_residual())
    network.measure_()
    batch = [{"x": inputs_of(network.checkpoint)}]
    sizes = network.statistics.paths["params"][2].sizes
    cost = network.statistics.cost
    moments = network.moments(sizes, batch)
    row = cost.to_row(sizes)
    knots = {unit: CalibratedSize(int(cost.evaluate(unit, row)[0]), sizes, moments) for unit in ("params", "macs")}
    full = network.statistics.full
    answers = []
    for order in (("params", "macs"), ("macs", "params")):
        both = SizeStatistics(
            cost,
            {
                unit: [
                    CalibratedSize(int(cost.evaluate(unit, cost.full()[None])[0]), full.sizes, full.moments),
                    knots[unit],
                ]
                for unit in order
            },
        )
        answers.append(both.at(sizes, network.parts.nodes, network.checkpoint.structure.weights, network.sampler))
    for name, found in answers[0].items():
        torch.testing.assert_close(found.mean, moments[name].mean, rtol=0, atol=1e-7)
        assert torch.equal(found.mean, answers[1][name].mean)
        assert torch.equal(found.variance, answers[1][name].variance)


def test_moments_are_those_of_the_path_that_is_closest() -> None:
    """One path narrows the first group, the other the second; each is asked for a plan next to it."""
    checkpoint = small_residual()
    network = IntegralNetwork(checkpoint)
    first, second = checkpoint.structure.full_sizes()
    cost = CostModel.of(checkpoint.template, checkpoint.structure)

    def knot(unit: Unit, sizes: tuple[int, int], value: float) -> CalibratedSize:
        named = dict(zip((first, second), sizes, strict=True))
        lengths = {"w0": sizes[0], "w1": sizes[1], "w2": sizes[0]}
        moments = {name: Moments(torch.full((n,), value), torch.full((n,), value**2)) for name, n in lengths.items()}
        return CalibratedSize(int(cost.evaluate(unit, cost.to_row(named))[0]), named, moments)

    statistics = SizeStatistics(
        cost,
        {
            "params": [knot("params", (8, 8), 1.0), knot("params", (8, 2), 2.0), knot("params", (6, 1), 2.0)],
            "macs": [knot("macs", (8, 8), 1.0), knot("macs", (2, 8), 3.0), knot("macs", (1, 6), 3.0)],
        },
    )
    axes = checkpoint.structure.weights
    for sizes, value in (((8, 2), 2.0), ((7, 2), 2.0), ((2, 8), 3.0), ((2, 7), 3.0)):
        plan = dict(zip((first, second), sizes, strict=True))
        found = statistics.at(plan, network.parts.nodes, axes, network.sampler)
        kept = found["w1"].mean  # the second group; the last knots of the path that narrows it lack none of these
        assert float(kept.min()) > 0.75 * value, sizes
        assert float(kept.max()) <= value, sizes


def test_a_node_takes_the_knots_where_it_reads_as_many_channels() -> None:
    """Off the path a plan may keep more channels of a group than the knots around it; they take larger ones'."""
    checkpoint = small_residual()
    network = IntegralNetwork(checkpoint)
    first, second = checkpoint.structure.full_sizes()
    cost = CostModel.of(checkpoint.template, checkpoint.structure)

    def knot(sizes: tuple[int, int], value: float) -> CalibratedSize:
        named = dict(zip((first, second), sizes, strict=True))
        lengths = {"w0": sizes[0], "w1": sizes[1], "w2": sizes[0]}
        moments = {name: Moments(torch.full((n,), value), torch.full((n,), value**2)) for name, n in lengths.items()}
        return CalibratedSize(int(cost.evaluate("params", cost.to_row(named))[0]), named, moments)

    knots = [knot((8, 8), 1.0), knot((6, 4), 2.0), knot((2, 2), 4.0)]
    statistics = SizeStatistics(cost, {"params": knots, "macs": knots})
    sizes = {first: 7, second: 2}
    found = statistics.at(sizes, network.parts.nodes, checkpoint.structure.weights, network.sampler)
    above, below = knots[1], knots[2]
    own = int(cost.evaluate("params", cost.to_row(sizes))[0])
    share = math.log(above.cost / own) / math.log(above.cost / below.cost)
    assert 0 < share < 1
    rank = {channel: place for place, channel in enumerate(checkpoint.orders[first])}
    kept = sorted(checkpoint.orders[first][:7])
    expected = torch.tensor([2 + 2 * share if rank[c] < 2 else 2.0 if rank[c] < 6 else 1.0 for c in kept])
    torch.testing.assert_close(found["w0"].mean, expected.float())
    torch.testing.assert_close(found["w0"].variance, expected.float().square())  # deviations are interpolated
    torch.testing.assert_close(found["w1"].mean, torch.full((2,), 1.5))  # reads 7 channels, the knots around 8 and 6
    expected = torch.tensor([4.0 if rank[c] < 2 else 2.0 if rank[c] < 6 else 1.0 for c in kept])
    torch.testing.assert_close(found["w2"].mean, expected)  # reads 2 channels, as the last knot does


def test_all_samples_that_are_given_are_measured_at_the_knots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of them place the knots, and their moments alone are others."""
    monkeypatch.setattr(measurement, "STATISTICS_SAMPLES", 12)
    network = IntegralNetwork(smoothed(small_residual()))
    inputs = inputs_of(network.checkpoint)
    few = network.measure_(inputs[:12]).full.moments["w1"]
    statistics = network.measure_(inputs)
    for knots in statistics.paths.values():
        for knot in knots:
            exact = network.moments(knot.sizes, [{"x": inputs}])
            for name, moments in knot.moments.items():
                torch.testing.assert_close(moments.mean, exact[name].mean, rtol=0, atol=1e-6)
    assert not torch.allclose(few.mean, statistics.full.moments["w1"].mean, atol=1e-4)
