"""Knots of statistics lie where made-up errors of interpolation need them, and nowhere closer than they may."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.sizes_validation import MOST_KNOTS
from inn_core.graph.cost import CostModel
from inn_core.sized.placement import CLOSEST_RATIO, place_knots
from tests.inn_core.sized_networks import small_residual


def placed(checkpoint: Checkpoint, is_bad: Callable[[int], bool]) -> list[int]:
    """Costs of the knots on the path of parameters, where interpolation is bad at plans with such parameters."""
    cost = CostModel.of(checkpoint.template, checkpoint.structure)

    def difference(sizes: dict[str, int], *_: object) -> float:
        return float(is_bad(int(cost.evaluate("params", cost.to_row(sizes))[0])))

    statistics = place_knots(
        checkpoint,
        smallest=cost.to_sizes(cost.minimum()),
        measure=lambda sizes: {},
        difference=difference,
        interpolate=lambda *_: {},
    )
    return [knot.cost for knot in statistics.paths["params"]]


def test_knots_are_placed_where_interpolation_is_bad() -> None:
    """A made-up divergence that is large in one half of the path only."""
    checkpoint = small_residual()
    cost = CostModel.of(checkpoint.template, checkpoint.structure)
    full = int(cost.evaluate("params", cost.full()[None])[0])

    def place(bad_from: float) -> list[int]:
        return placed(checkpoint, lambda params: params < bad_from * full)

    coarse, fine = place(0.0), place(0.3)
    assert set(coarse) < set(fine)
    assert all(cost_of < 0.4 * full for cost_of in set(fine) - set(coarse))
    everywhere = place(1.0)
    assert len(everywhere) <= MOST_KNOTS
    assert all(below < above for above, below in itertools.pairwise(everywhere))
    halves = [below / above for above, below in itertools.pairwise(coarse)]
    assert min(halves) > 0.3
    assert max(halves) < CLOSEST_RATIO


def test_a_network_that_cannot_shrink_has_one_knot() -> None:
    checkpoint = small_residual()
    full = checkpoint.structure.full_sizes()
    statistics = place_knots(
        checkpoint, smallest=full, measure=lambda _: {}, difference=lambda *_: 1.0, interpolate=lambda *_: {}
    )
    assert [len(knots) for knots in statistics.paths.values()] == [1, 1]
    assert statistics.full.sizes == full


def test_an_interval_is_halved_when_only_one_of_its_halves_is_bad() -> None:
    """The plans next to the full network differ, the one in the middle of the first interval does not."""
    checkpoint = small_residual()
    cost = CostModel.of(checkpoint.template, checkpoint.structure)

    def place(bad: set[int]) -> list[int]:
        return placed(checkpoint, lambda params: params in bad)

    coarse = place(set())
    row = cost.full()
    inside = []
    for group in checkpoint.paths["params"]:
        row[group] -= 1
        inside.append(int(cost.evaluate("params", row[None])[0]))
        if inside[-1] <= coarse[1]:
            break
    *plans, last = inside
    assert last == coarse[1]
    middle = max(plan for plan in plans if plan**2 <= coarse[0] * last)
    upper = [plan for plan in plans if plan > middle]
    assert upper
    found = place(set(upper))
    assert middle in found
    assert set(found) & set(upper)
