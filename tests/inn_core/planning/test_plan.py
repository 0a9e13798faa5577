"""Plans: never over the budget, monotone, close to it, and errors that say what to do."""

from __future__ import annotations

import gc
import math
import time
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import BudgetUnreachableError, InvalidBudgetError
from inn_core.graph.axis import axis_size, fixed
from inn_core.graph.cost import UNITS, CostModel, Unit
from inn_core.graph.structure import Group, Structure, Template
from inn_core.planning.exchanges import MAX_EXCHANGES, list_exchanges
from inn_core.planning.plan import Budget, Plan, Planner, choose_plan, feasible_range
from inn_core.planning.size_grid import build_size_grids, path_on_grids
from tests.inn_core.networks import Shapes, basic_resnet, residual_network

N_TARGETS = 200
LARGEST_GAP = 0.005
MEDIAN_GAP = 0.001
LARGEST_GAP_OF_8 = 0.02
WIDE_ENOUGH = 0.1  # share of the full cost; below it the narrower network has one to three multiples of 8 a group

BASIC = basic_resnet()


def achieved(plan: Plan, unit: Unit) -> int:
    return int({"params": plan.params, "macs": plan.macs, "bytes": plan.bytes}[unit])


def plan_many(
    checkpoint: Checkpoint, unit: Unit, multiple_of: int
) -> tuple[np.ndarray, np.ndarray, list[Plan], list[float]]:
    """Targets, what was achieved, the plans, and the seconds each took."""
    low, high = feasible_range(checkpoint, unit, multiple_of)
    targets = np.sort(np.random.default_rng(5).integers(low, high + 1, N_TARGETS))
    plans, seconds = [], []
    for target in targets:
        start = time.perf_counter()
        plans.append(choose_plan(checkpoint, Budget(unit, int(target)), multiple_of=multiple_of))
        seconds.append(time.perf_counter() - start)
    return targets, np.array([achieved(plan, unit) for plan in plans]), plans, seconds


@pytest.mark.parametrize("unit", UNITS)
def test_200_random_targets_are_met_closely(wide_network: Checkpoint, unit: Unit) -> None:
    targets, costs, _, seconds = plan_many(wide_network, unit, 1)
    gaps = (targets - costs) / targets
    print(f"{wide_network.name} {unit}: {1e3 * np.median(seconds):.2f} ms median, {1e3 * max(seconds):.2f} ms at most")
    assert (gaps >= 0).all()
    assert (np.diff(costs) >= 0).all()
    assert gaps.max() <= LARGEST_GAP
    assert np.median(gaps) <= MEDIAN_GAP


@pytest.mark.parametrize("unit", UNITS)
def test_200_random_targets_in_multiples_of_8(wide_network: Checkpoint, unit: Unit) -> None:
    targets, costs, plans, _ = plan_many(wide_network, unit, 8)
    gaps = (targets - costs) / targets
    assert (gaps >= 0).all()
    assert (np.diff(costs) >= 0).all()
    assert gaps[targets > WIDE_ENOUGH * targets.max()].max() <= LARGEST_GAP_OF_8
    full = wide_network.structure.full_sizes()
    for plan in plans:
        assert all(size % 8 == 0 or size == full[name] for name, size in plan.sizes.items())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(1, 800_000), st.integers(0, 2_000), st.sampled_from([1, 3, 8]))
def test_plans_are_monotone_and_within_minimum_and_full_size(target: int, more: int, multiple_of: int) -> None:
    low, _ = feasible_range(BASIC, "params", multiple_of)
    target = max(target, low)
    plan = choose_plan(BASIC, Budget("params", target), multiple_of=multiple_of)
    larger = choose_plan(BASIC, Budget("params", target + more), multiple_of=multiple_of)
    assert plan.params <= target
    assert plan.params <= larger.params <= target + more
    assert plan == choose_plan(BASIC, Budget("params", target), multiple_of=multiple_of)
    for group in BASIC.structure.groups:
        assert group.minimum <= plan.sizes[group.name] <= group.size


@settings(deadline=None)
@given(st.integers(40_000, 694_000), st.sampled_from([1, 8]))
def test_a_third_more_budget_never_predicts_more_damage(target: int, multiple_of: int) -> None:
    """Exchanges that only use up a budget must not spoil the network."""

    def damage(value: int) -> float:
        sizes = choose_plan(BASIC, Budget("params", value), multiple_of=multiple_of).sizes
        return float(sum(BASIC.curves[name][size] for name, size in sizes.items()))

    assert damage(round(target * 4 / 3)) <= damage(target)


def test_costs_of_a_plan_are_those_of_its_sizes(wide_network: Checkpoint) -> None:
    low, high = feasible_range(wide_network, "macs")
    plan = choose_plan(wide_network, Budget("macs", (low + high) // 2))
    shapes = [[axis_size(axis, plan.sizes) for axis in axes] for axes in wide_network.structure.weights.values()]
    assert plan.params == sum(math.prod(shape) for shape in shapes)
    terms = wide_network.structure.macs
    assert plan.macs == sum(t.coefficient * math.prod(axis_size(axis, plan.sizes) for axis in t.axes) for t in terms)


@pytest.mark.parametrize("unit", UNITS)
def test_a_budget_above_the_largest_size_gives_the_full_network(unit: Unit) -> None:
    largest = feasible_range(BASIC, unit)[1]
    for value in (largest, largest + 1, 10**18, 10**30):
        plan = choose_plan(BASIC, Budget(unit, value))
        assert plan.full_size
        assert dict(plan.sizes) == BASIC.structure.full_sizes()
    assert not choose_plan(BASIC, Budget(unit, largest - 1)).full_size


@pytest.mark.parametrize("unit", UNITS)
def test_the_smallest_size_is_reached_and_anything_below_is_refused(unit: Unit) -> None:
    smallest, largest = feasible_range(BASIC, unit)
    plan = choose_plan(BASIC, Budget(unit, smallest))
    assert achieved(plan, unit) == smallest
    assert dict(plan.sizes) == {group.name: group.minimum for group in BASIC.structure.groups}
    with pytest.raises(BudgetUnreachableError) as caught:
        choose_plan(BASIC, Budget(unit, smallest - 1))
    assert caught.value.fields == {"target": smallest - 1, "minimum": smallest, "maximum": largest, "unit": unit}


@pytest.mark.parametrize("value", [0, -5, True, 1.5, 1e6, "100", None, float("nan")])
def test_a_budget_is_a_positive_integer(value: Any) -> None:
    with pytest.raises(InvalidBudgetError, match="not a positive integer"):
        Budget("params", value)


def test_a_budget_has_a_known_unit() -> None:
    unit: Any = "flops"
    with pytest.raises(InvalidBudgetError, match="params, macs, bytes"):
        Budget(unit, 5)


@pytest.mark.parametrize("multiple_of", [0, -8, True, 1.0, "8", 1025])
def test_a_multiple_is_an_integer_in_range(multiple_of: Any) -> None:
    with pytest.raises(InvalidBudgetError, match="1 to 1024"):
        choose_plan(BASIC, Budget("params", 10**6), multiple_of=multiple_of)


def test_multiples_keep_full_sizes_and_respect_minimums() -> None:
    groups = (Group("a", 20, 9, ()), Group("b", 5, 1, ()), Group("c", 16, 16, ()))
    ladders = build_size_grids(groups, 8)
    rungs = [row[: top + 1].tolist() for row, top in zip(ladders.sizes, ladders.top, strict=True)]
    assert rungs == [[16, 20], [5], [16]]
    path = np.array([0] * 11 + [1] * 4, dtype=np.int32)
    assert path_on_grids(path, ladders).tolist() == [0]


def test_rungs_of_single_channels_are_the_path_itself() -> None:
    groups = BASIC.structure.groups
    path = BASIC.paths["params"]
    np.testing.assert_array_equal(path_on_grids(path, build_size_grids(groups, 1)), path)


def test_a_network_without_groups_has_one_size() -> None:
    structure = Structure((), {"w": (((3,),),)}, {}, (), (), (), ())
    template = Template(onnx.ModelProto(), {"w": ((3,), onnx.TensorProto.FLOAT)})
    empty = {unit: np.zeros(0, dtype=np.int32) for unit in ("params", "macs")}
    network = Checkpoint("fixed", template, {"w": np.zeros(3, np.float32)}, structure, {}, empty, {})
    assert feasible_range(network, "params") == (3, 3)
    assert choose_plan(network, Budget("params", 3)) == Plan(
        {}, 3, 0, choose_plan(network, Budget("params", 9)).bytes, True
    )
    with pytest.raises(BudgetUnreachableError):
        choose_plan(network, Budget("params", 2))


@pytest.mark.parametrize("n_groups", [0, 1, 2, 9, 48, 200, 1500])
def test_moves_are_distinct_and_bounded(n_groups: int) -> None:
    moves = list_exchanges(n_groups)
    assert len(moves.groups) <= MAX_EXCHANGES
    assert len(np.unique(moves.cells, axis=0)) == len(moves.cells)
    used = moves.groups < n_groups
    assert (moves.changes[used] != 0).all()
    assert (moves.changes[~used] == 0).all()
    if n_groups:
        assert set(moves.groups[:, 0].tolist()) == set(range(n_groups))


def test_a_network_of_many_groups_is_planned_closely() -> None:
    """A chain of 300 layers of width 24: one channel is a percent of a percent."""
    shapes = Shapes()
    source = fixed(3)
    for layer in range(300):
        output = shapes.group(f"layer{layer}", 24)
        shapes.conv(f"layer{layer}", output, source, 3, 16)
        source = output
    network = shapes.network("chain")
    for multiple_of in (1, 8):
        targets, costs, _, _ = plan_many(network, "params", multiple_of)
        gaps = (targets - costs) / targets
        assert (gaps >= 0).all()
        assert (np.diff(costs) >= 0).all()
        assert gaps.max() <= LARGEST_GAP


def test_planning_does_not_keep_a_network_alive() -> None:
    network = residual_network()
    gone = weakref.ref(network)
    choose_plan(network, Budget("params", 500))
    del network
    gc.collect()
    assert gone() is None


def test_networks_that_differ_have_planners_of_their_own() -> None:
    network = residual_network()
    groups = tuple(replace(group, minimum=group.size) for group in network.structure.groups)
    rigid = replace(
        network,
        structure=replace(network.structure, groups=groups),
        paths={unit: np.zeros(0, dtype=np.int32) for unit in ("params", "macs")},
    )
    assert feasible_range(network, "params")[0] < feasible_range(rigid, "params")[0]


def test_long_paths_are_cut_into_chunks_without_a_seam() -> None:
    """Costs of all prefixes, computed in chunks, against one plan at a time."""
    size = 10_000
    structure = Structure((Group("a", size, 1, ()),), {"w": (((("a",)),),)}, {}, (), (), (), ())
    template = Template(onnx.ModelProto(), {"w": ((size,), onnx.TensorProto.FLOAT)})
    path = np.zeros(size - 1, dtype=np.int32)
    network = Checkpoint("long", template, {}, structure, {}, {"params": path, "macs": path}, {"a": np.zeros(size + 1)})
    planner = Planner(network)
    for target in (1, 2, 4095, 4096, 4097, 5904, 5905, 8192, 9999, 10_000):
        assert planner.choose(Budget("params", target)).params == target
    assert CostModel.of(network.template, network.structure).polynomials["params"].maximum == size
