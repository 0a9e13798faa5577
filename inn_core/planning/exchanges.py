"""Fill the gap between two neighbouring plans of the size path with small exchanges of channels between groups.

One channel of a wide group can be a percent of a small network. Between two prefixes of the path there are many other
plans: a channel more here, two fewer there. They are listed without looking at the budget, so that a larger budget
never gets a smaller plan: each interval of the path has its own fixed set, and intervals do not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from inn_core.arrays import FloatArray, IntArray
from inn_core.graph.cost import CostModel, Unit
from inn_core.planning.size_grid import SizeGrids

REACH = 4  # largest change of one group, in rungs
TOLERATED_GAP = 2.5e-3  # of the cost; below it a plan with more predicted damage is not worth the budget it uses
TOLERATED_GAP_MULTIPLES = 1.9e-2  # the same where sizes are multiples: exchanges are coarser and cost more
MAX_EXCHANGES = 24_000
SHARE_OF_PAIRS = 0.7  # of the moves; the rest is for triples
MAX_GROUPS_FOR_TRIPLES = 48  # with more groups pairs are plenty
GRID = 5e-4  # relative width of a cost bucket, in which only the least damaging plans are looked at
_FINALISTS = 4  # of them


@dataclass(frozen=True)
class Exchanges:
    """Exchanges of up to three groups, as cells of a flat table with a row per group and a column per change.

    Attributes:
        cells: shape `(n_moves, 3)`; unused places point at a last row of zeros.
        groups: group of each cell, shape `(n_moves, 3)`; `n_groups` where unused.
        changes: rungs up or down, shape `(n_moves, 3)`.
    """

    cells: IntArray
    groups: IntArray
    changes: IntArray


def list_exchanges(n_groups: int) -> Exchanges:
    """Exchanges of one, two and three groups, at most `MAX_EXCHANGES`.

    Few groups move far, many groups by one rung; of very many pairs an evenly spaced part is listed.
    """
    groups = [np.zeros((0, 3), dtype=np.int64)]
    changes = [np.zeros((0, 3), dtype=np.int64)]
    room = MAX_EXCHANGES
    for n_parts, share in ((1, 1.0), (2, SHARE_OF_PAIRS), (3, 1.0)):
        subsets = _subsets(n_groups, n_parts)
        if len(subsets) == 0:
            continue
        limit = max(int(room * share), 1)
        reach = next((r for r in range(REACH, 1, -1) if len(subsets) * (2 * r) ** n_parts <= limit), 1)
        steps = np.array(list(product([d for d in range(-reach, reach + 1) if d], repeat=n_parts)))
        if n_parts == 3:  # a third group corrects an exchange; three in one direction are a step of the path
            steps = steps[(steps.min(axis=1) < 0) & (steps.max(axis=1) > 0)]
        subsets = subsets[:: -(-len(subsets) * len(steps) // limit)]
        room -= len(subsets) * len(steps)
        groups.append(_padded(np.repeat(subsets, len(steps), axis=0), n_groups))
        changes.append(_padded(np.tile(steps, (len(subsets), 1)), 0))
    all_groups, all_changes = np.concatenate(groups), np.concatenate(changes)
    return Exchanges(all_groups * (2 * REACH + 1) + all_changes + REACH, all_groups, all_changes)


def _subsets(n_groups: int, n_parts: int) -> IntArray:
    if n_parts == 1:
        return np.arange(n_groups, dtype=np.int64)[:, None]
    if n_parts == 2:
        return np.stack(np.triu_indices(n_groups, 1), axis=1).astype(np.int64)
    few = n_groups <= MAX_GROUPS_FOR_TRIPLES
    return np.array(list(combinations(range(n_groups), 3)) if few else [], dtype=np.int64)


def _padded(array: IntArray, value: int) -> IntArray:
    return np.pad(array, ((0, 0), (0, 3 - array.shape[1])), constant_values=value)


def fill_interval(
    base: IntArray,
    *,
    limit: int,
    cost: CostModel,
    unit: Unit,
    ladders: SizeGrids,
    damages: FloatArray,
    moves: Exchanges,
    worst: float,
    tolerated_gap: float = TOLERATED_GAP,
) -> tuple[IntArray, IntArray]:
    """Plans whose cost lies between a plan of the path and the next larger one.

    Args:
        base: rungs of the smaller plan, shape `(n_groups,)`.
        limit: cost of the larger plan; every returned cost is below it.
        cost: costs of the network.
        unit: what counts.
        ladders: the allowed sizes.
        damages: predicted damage on every rung, shape of `ladders.sizes`.
        moves: `list_moves(n_groups)`.
        worst: predicted damage, relative to the base, that no plan may pass.
        tolerated_gap: share of the cost that may stay unused rather than taking more predicted damage.

    Returns:
        Rungs, shape `(n_plans, n_groups)`, and their exact costs, increasing, shape `(n_plans,)`. The first is the
        base. Independent of any budget.
    """
    sizes = ladders.at(base[None, :])[0]
    low = int(cost.evaluate(unit, sizes[None, :])[0])
    only = base[None, :], np.array([low], dtype=np.int64)
    grid = GRID * low
    if limit - low <= max(grid, 1):
        return only
    rungs, damage = _estimate(base, sizes, low, limit, grid, cost, unit, ladders, damages, moves)
    exact = cost.evaluate(unit, ladders.at(rungs))
    valid = np.flatnonzero((exact > low) & (exact < limit) & (damage <= worst))
    valid = valid[np.lexsort((damage[valid], exact[valid]))]
    kept = valid[_worth_keeping(exact[valid], damage[valid], low, limit, tolerated_gap)]
    return np.concatenate([base[None, :], rungs[kept]]), np.append(low, exact[kept])


def _worth_keeping(costs: IntArray, damages: FloatArray, low: int, limit: int, tolerated_gap: float) -> IntArray:
    """Positions of the plans that are better than all cheaper ones, and of the best others where those leave a gap.

    Args:
        costs: rising, above `low` and below `limit`.
        damages: predicted, relative to the plan that costs `low`.
    """
    best_before = np.minimum.accumulate(np.append(0.0, damages))[:-1]
    distinct = np.append(True, costs[1:] > costs[:-1]) if len(costs) else np.zeros(0, dtype=bool)
    better = np.flatnonzero((damages <= best_before) & distinct)
    kept: list[int] = []
    reached = low
    for target, index in [*((int(costs[i]), int(i)) for i in better), (limit, -1)]:
        while target > reached * (1 + tolerated_gap):
            start = np.searchsorted(costs, reached * (1 + tolerated_gap / 2), side="right")
            stop = np.searchsorted(costs, min(reached * (1 + tolerated_gap), target - 1), side="right")
            if stop <= start:  # nothing inside the tolerated gap: take the next cheapest
                if start >= len(costs) or costs[start] >= target:
                    break
                stop = start + 1
            filler = int(start + damages[start:stop].argmin())
            kept.append(filler)
            reached = int(costs[filler])
        if index >= 0:
            kept.append(index)
            reached = target
    return np.array(kept, dtype=np.int64)


def _estimate(
    base: IntArray,
    sizes: IntArray,
    low: int,
    limit: int,
    grid: float,
    cost: CostModel,
    unit: Unit,
    ladders: SizeGrids,
    damages: FloatArray,
    moves: Exchanges,
) -> tuple[IntArray, FloatArray]:
    """Rungs and damage of the least damaging moves in each bucket of cost.

    The cost is exact where it holds products of at most two groups, and close elsewhere.
    """
    n_groups = len(base)
    cost_table, size_table, damage_table = _tables(base, sizes, cost, unit, ladders, damages)
    mixed = np.zeros((n_groups + 1, n_groups + 1))
    mixed[:n_groups, :n_groups] = cost.polynomials[unit].interactions(sizes)
    cells, groups = moves.cells, moves.groups
    change = size_table[cells]
    estimate = cost_table[cells].sum(axis=1)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        estimate += mixed[groups[:, i], groups[:, j]] * change[:, i] * change[:, j]
    inside = np.flatnonzero((estimate > 0) & (estimate < limit - low))
    bucket = (estimate[inside] / grid).astype(np.int64)
    damage = damage_table[cells[inside]].sum(axis=1)
    order = np.lexsort((damage, bucket))
    bucket, damage, inside = bucket[order], damage[order], inside[order]
    first = np.searchsorted(bucket, bucket)  # where the bucket of each entry starts
    finalists = np.arange(len(bucket)) - first < _FINALISTS
    chosen = inside[finalists]
    rungs = np.repeat(np.append(base, 0)[None, :], len(chosen), axis=0)
    np.add.at(rungs, (np.arange(len(chosen))[:, None], groups[chosen]), moves.changes[chosen])
    return rungs[:, :n_groups], damage[finalists]


def _tables(
    base: IntArray,
    sizes: IntArray,
    cost: CostModel,
    unit: Unit,
    ladders: SizeGrids,
    damages: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Change of cost, size and damage when one group alone moves; flat, infinite cost where there is no such rung."""
    n_groups = len(base)
    reach = np.arange(-REACH, REACH + 1)
    target = base[:, None] + reach[None, :]
    exists = (target >= 0) & (target <= ladders.top[:, None])
    target = np.where(exists, target, base[:, None])
    rows = np.arange(n_groups)[:, None]
    size_change = ladders.sizes[rows, target] - sizes[:, None]
    cost_change = np.where(exists, cost.polynomials[unit].changes(sizes, size_change), np.inf)
    damage_change = damages[rows, target] - damages[rows, base[:, None]]
    zeros = np.zeros((1, len(reach)))
    return (
        np.concatenate([cost_change, zeros]).reshape(-1),
        np.concatenate([size_change, zeros]).reshape(-1),
        np.concatenate([damage_change, zeros]).reshape(-1),
    )
