"""Allocation on damages known in closed form: near the optimum of brute force, whole paths, monotone curves."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from inn_core.fitting.channel_order import NestedOrder
from inn_core.graph.axis import Axis, fixed
from inn_core.graph.cost import CostModel
from inn_core.graph.structure import Group, Structure, Template
from inn_core.importing.allocation import Allocation, Sizes, estimated_allocation, measured_allocation

FULL = {"a": 12, "b": 12, "c": 12}
WEIGHT = {"a": 1.0, "b": 0.05, "c": 0.3}
STEEPNESS = {"a": 2.0, "b": 1.5, "c": 3.0}


@functools.cache
def cost_model() -> CostModel:
    """Three independent groups with 30, 10 and 20 parameters a channel, so that costs add up."""
    inputs = {"a": 30, "b": 10, "c": 20}
    weights: dict[str, tuple[Axis, ...]] = {name: (((name,),), fixed(n)) for name, n in inputs.items()}
    groups = tuple(Group(name, size, 1, ((name, 0),)) for name, size in FULL.items())
    structure = Structure(groups, weights, {}, (), (), (), ())
    shapes = {name: ((FULL[name], n), TensorProto.FLOAT) for name, n in inputs.items()}
    return CostModel.of(Template(ModelProto(), shapes), structure)


def damage(sizes: Sizes) -> float:
    """Additive, convex in the size of each group."""
    return sum(WEIGHT[name] * (math.pow(FULL[name] / size, STEEPNESS[name]) - 1.0) for name, size in sizes.items())


def measure(plans: Sequence[Sizes]) -> list[float]:
    return [damage(sizes) for sizes in plans]


def predicted(scale: float = 1.0) -> dict[str, NestedOrder]:
    """Curves of the right shape but wrong by a factor that differs by group."""
    factors = {"a": 0.01, "b": 7.0, "c": 1.0}
    result = {}
    for name, size in FULL.items():
        m = np.maximum(np.arange(size + 1), 0.5)
        curve = scale * factors[name] * WEIGHT[name] * ((size / m) ** STEEPNESS[name] - 1)
        result[name] = NestedOrder(np.arange(size), curve)
    return result


def params(cost: CostModel, sizes: Sizes) -> int:
    return int(cost.evaluate("params", cost.to_row(sizes))[0])


def along(cost: CostModel, allocation: Allocation) -> list[Sizes]:
    sizes = cost.full().copy()
    result = [cost.to_sizes(sizes)]
    for group in allocation.path:
        sizes[group] -= 1
        result.append(cost.to_sizes(sizes))
    return result


@functools.cache
def every_plan() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Cost and damage of all 1,728 plans."""
    cost = cost_model()
    rows = np.array(list(itertools.product(*(range(1, n + 1) for n in FULL.values()))), dtype=np.int64)
    return cost.evaluate("params", rows), np.array([damage(cost.to_sizes(row)) for row in rows])


def best_damage(budget: int) -> float:
    costs, damages = every_plan()
    return float(damages[costs <= budget].min())


@pytest.fixture(scope="module")
def measured() -> tuple[CostModel, Allocation]:
    cost = cost_model()
    return cost, measured_allocation(cost, predicted(), measure)


def test_the_path_takes_every_channel_but_the_minimum(measured: tuple[CostModel, Allocation]) -> None:
    cost, allocation = measured
    assert allocation.path.dtype == np.int32
    assert np.bincount(allocation.path).tolist() == [11, 11, 11]
    assert along(cost, allocation)[-1] == {"a": 1, "b": 1, "c": 1}


def test_every_plan_of_the_path_is_near_the_best_plan_of_its_cost(measured: tuple[CostModel, Allocation]) -> None:
    """Though the predictions that it scales are wrong by factors up to 700 between groups."""
    cost, allocation = measured
    full = params(cost, FULL)
    for sizes in along(cost, allocation):
        used = params(cost, sizes)
        if 0.15 * full < used < 0.95 * full:
            assert damage(sizes) <= 1.35 * best_damage(used) + 0.02


def test_measuring_beats_the_wrong_predictions(measured: tuple[CostModel, Allocation]) -> None:
    cost, allocation = measured
    estimated = estimated_allocation(cost, predicted())
    full = params(cost, FULL)
    for share in (0.7, 0.5, 0.3):
        ours, theirs = (
            next(damage(sizes) for sizes in along(cost, each) if params(cost, sizes) <= share * full)
            for each in (allocation, estimated)
        )
        assert ours < theirs


def test_curves_fall_with_the_size_and_end_at_zero(measured: tuple[CostModel, Allocation]) -> None:
    _, allocation = measured
    for name, curve in allocation.curves.items():
        assert curve.shape == (FULL[name] + 1,)
        assert (np.diff(curve) <= 0).all()
        assert curve[-1] == 0.0


def test_measurements_decide_and_not_the_scale_of_the_predictions(measured: tuple[CostModel, Allocation]) -> None:
    cost, allocation = measured
    again = measured_allocation(cost, predicted(scale=1e6), measure)
    np.testing.assert_array_equal(again.path, allocation.path)


def test_predictions_of_nothing_are_replaced() -> None:
    cost = cost_model()
    flat = {name: NestedOrder(np.arange(size), np.zeros(size + 1)) for name, size in FULL.items()}
    allocation = measured_allocation(cost, flat, measure)
    assert np.bincount(allocation.path).tolist() == [11, 11, 11]
    sizes = next(s for s in along(cost, allocation) if params(cost, s) <= 0.5 * params(cost, FULL))
    assert sizes["b"] < sizes["a"]


def test_progress_rises(measured: tuple[CostModel, Allocation]) -> None:
    cost, _ = measured
    seen: list[float] = []
    measured_allocation(cost, predicted(), measure, progress=lambda _, share: seen.append(share))
    assert len(seen) > 5
    assert seen == sorted(seen)
    assert 0.0 <= seen[0] <= seen[-1] <= 1.0


def test_right_predictions_alone_follow_the_optimum() -> None:
    """Marginal analysis is exact for additive convex damages, at the budgets the path touches."""
    cost = cost_model()
    right = {}
    for name, size in FULL.items():
        m = np.maximum(np.arange(size + 1), 0.5)
        right[name] = NestedOrder(np.arange(size), WEIGHT[name] * ((size / m) ** STEEPNESS[name] - 1))
    for sizes in along(cost, estimated_allocation(cost, right)):
        assert damage(sizes) <= best_damage(params(cost, sizes)) * (1 + 1e-9) + 1e-12
