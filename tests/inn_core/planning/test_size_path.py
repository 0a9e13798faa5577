"""The size path against scipy, brute force and hand-made curves."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.cost import CostModel
from inn_core.graph.polynomial import compile_polynomial
from inn_core.graph.structure import Group, Structure, Template, Term
from inn_core.planning.size_path import build_path, lower_hull


def linear_cost(prices: dict[str, int], size: int = 5) -> CostModel:
    """Groups that do not meet in any tensor: the cost is a sum of prices."""
    groups = tuple(Group(name, size, 1, ()) for name in prices)
    terms = [Term(price, (((name,),),)) for name, price in prices.items()]
    polynomial = compile_polynomial(terms, dict.fromkeys(prices, size))
    return CostModel(groups, {"params": polynomial, "macs": polynomial, "bytes": polynomial})


def plans_along(cost: CostModel, path: np.ndarray) -> list[tuple[int, ...]]:
    sizes = cost.full()
    plans = [tuple(sizes.tolist())]
    for group in path:
        sizes[group] -= 1
        plans.append(tuple(sizes.tolist()))
    return plans


@given(st.lists(st.floats(0, 100), min_size=3, max_size=30))
def test_lower_hull_is_the_convex_hull_from_below(values: list[float]) -> None:
    curve = np.array(values)
    hull = lower_hull(curve)
    assert (hull <= curve + 1e-9).all()
    assert hull[0] == curve[0]
    assert hull[-1] == curve[-1]
    assert (np.diff(hull, 2) >= -1e-7).all()
    points = np.stack([np.arange(len(curve)), curve], axis=1)
    lid = [(0.0, curve.max() + 1), (len(curve) - 1.0, curve.max() + 1)]
    vertices = ConvexHull(np.concatenate([points, lid])).vertices
    lower = sorted(i for i in vertices if i < len(curve))
    np.testing.assert_allclose(hull, np.interp(np.arange(len(curve)), lower, curve[lower]), atol=1e-6)


def test_path_leads_from_full_to_minimum(wide_network: Checkpoint) -> None:
    steps = [group.size - group.minimum for group in wide_network.structure.groups]
    for path in wide_network.paths.values():
        assert path.dtype == np.int32
        assert np.bincount(path, minlength=len(steps)).tolist() == steps


@given(st.integers(0, 10_000))
def test_every_prefix_is_optimal_for_convex_damage_and_linear_cost(seed: int) -> None:
    """Marginal analysis: no plan that costs as little as a prefix of the path has less damage."""
    random = np.random.default_rng(seed)
    prices = {name: int(random.integers(1, 9)) for name in "abc"}
    cost = linear_cost(prices)
    curves = {name: np.append(np.cumsum(np.sort(random.uniform(0, 1, 5)))[::-1], 0.0) for name in prices}
    everything = list(product(range(1, 6), repeat=3))
    costs = {plan: sum(price * size for price, size in zip(prices.values(), plan, strict=True)) for plan in everything}
    damages = {plan: sum(curves[name][size] for name, size in zip(prices, plan, strict=True)) for plan in everything}
    for plan in plans_along(cost, build_path(cost, curves, unit="params")):
        best = min(damages[other] for other in everything if costs[other] <= costs[plan])
        assert damages[plan] <= best + 1e-9


def test_a_first_steep_step_does_not_stop_a_group() -> None:
    """The whole branch `a` costs 1.0 however little of it goes, `b` costs 0.4 a channel: `a` goes first, and whole."""
    cost = linear_cost({"a": 1, "b": 1})
    curves = {"a": np.array([9.0, 1, 1, 1, 1, 0]), "b": np.array([9.0, 1.6, 1.2, 0.8, 0.4, 0])}
    path = build_path(cost, curves, unit="params")
    assert path.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_equal_ratios_shrink_all_groups_alike() -> None:
    cost = linear_cost({"a": 1, "b": 3})
    flat = {"a": np.zeros(6), "b": np.zeros(6)}
    for plan in plans_along(cost, build_path(cost, flat, unit="params")):
        assert abs(plan[0] - plan[1]) <= 1


def test_floors_are_passed_only_when_all_groups_are_at_theirs() -> None:
    cost = linear_cost({"a": 1, "b": 1})
    curves = {"a": np.zeros(6), "b": np.array([5.0, 4, 3, 2, 1, 0])}
    plans = plans_along(cost, build_path(cost, curves, unit="params", floors={"a": 3, "b": 2}))
    assert (3, 2) in plans
    assert all(plan[0] >= 3 and plan[1] >= 2 for plan in plans[: plans.index((3, 2))])
    assert plans[-1] == (1, 1)


def test_a_group_that_saves_nothing_goes_last() -> None:
    groups = (Group("a", 3, 1, ()), Group("b", 3, 1, ()))
    polynomial = compile_polynomial([Term(2, ((("a",),),))], {"a": 3, "b": 3})
    cost = CostModel(groups, {"macs": polynomial})
    curves = {"a": np.array([9.0, 5, 2, 0]), "b": np.zeros(4)}
    assert build_path(cost, curves, unit="macs").tolist() == [0, 0, 1, 1]


def test_a_network_without_groups_has_an_empty_path() -> None:
    import onnx

    structure = Structure((), {}, {}, (), (), (), ())
    cost = CostModel.of(Template(onnx.ModelProto(), {}), structure)
    assert build_path(cost, {}, unit="params").shape == (0,)
