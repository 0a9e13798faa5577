"""From a budget to a size for every group: never over the budget, never smaller for a larger one, in milliseconds."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inn_core.arrays import FloatArray, IntArray
from inn_core.caches import WeakCache
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import BudgetUnreachableError, InvalidBudgetError
from inn_core.graph.cost import UNITS, CostModel, Unit
from inn_core.planning.exchanges import TOLERATED_GAP, TOLERATED_GAP_MULTIPLES, Exchanges, fill_interval, list_exchanges
from inn_core.planning.size_grid import SizeGrids, build_size_grids, path_on_grids

MAX_MULTIPLE = 1024
# An exchange that only uses up the budget must not be predicted worse than the path's own plan at this share of it.
WORST_FILL = 0.75
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Budget:
    """What the caller allows.

    Attributes:
        unit: `params`, `macs` or `bytes`.
        value: a positive integer.
    """

    unit: Unit
    value: int

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InvalidBudgetError(
                f"budget unit {self.unit!r} is unknown; use one of: {', '.join(UNITS)}", unit=self.unit
            )
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < 1:
            raise InvalidBudgetError(
                f"budget of {self.value!r} {self.unit} is not a positive integer; give a whole number from 1 up",
                unit=self.unit,
                value=self.value if isinstance(self.value, int | float | str) else repr(self.value),
            )

    @classmethod
    def of(cls, *, params: int | None = None, macs: int | None = None, size_bytes: int | None = None) -> Budget:
        """The one budget that is given; any kind of whole number will do. Raises InvalidBudgetError."""
        units: tuple[tuple[Unit, Any], ...] = (("params", params), ("macs", macs), ("bytes", size_bytes))
        given = [(unit, value) for unit, value in units if value is not None]
        if len(given) != 1:
            raise InvalidBudgetError(f"give exactly one of params, macs and size_bytes; {len(given)} were given")
        ((unit, value),) = given
        whole = hasattr(value, "__index__") and not isinstance(value, bool)
        return cls(unit, operator.index(value) if whole else value)


@dataclass(frozen=True)
class Plan:
    """A size for every group that meets a budget.

    Attributes:
        sizes: by group name, in the order of the structure.
        params: elements of all float initializers.
        macs: multiply-accumulates of one sample.
        bytes: ONNX file, an upper bound a few bytes per weight above the real file; exact at the full size.
        full_size: whether this is the full network.
    """

    sizes: Mapping[str, int]
    params: int
    macs: int
    bytes: int
    full_size: bool


@dataclass(frozen=True)
class _Descent:
    """The size path for one unit and multiple.

    Attributes:
        ladders: the allowed sizes.
        damages: predicted on every rung, shape `(n_groups, longest)`.
        path: group that gives up a rung at each step.
        costs: of all prefixes of the path, from the whole path to none, so rising; shape `(len(path) + 1,)`.
        losses: predicted damage of the same plans.
    """

    ladders: SizeGrids
    damages: FloatArray
    path: NDArray[np.int32]
    costs: IntArray
    losses: FloatArray

    def rungs(self, n_steps: int) -> IntArray:
        """Rungs after so many steps of the path, shape `(n_groups,)`."""
        return self.ladders.top - np.bincount(self.path[:n_steps], minlength=len(self.ladders.top))

    def worst_fill(self, position: int) -> float:
        """Damage that an exchange may add to the plan at a position of `costs`."""
        smaller = int(np.searchsorted(self.costs, int(self.costs[position] * WORST_FILL)))
        return float(self.losses[smaller] - self.losses[position])


class Planner:
    """Chooses plans for one network; keeps what does not depend on the budget.

    Safe to use from several threads: everything kept is written once.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.cost = CostModel.of(checkpoint.template, checkpoint.structure)
        self._paths = checkpoint.paths
        self._curves = checkpoint.curves
        self._moves: Exchanges = list_exchanges(len(self.cost.groups))
        self._descents: dict[tuple[Unit, int], _Descent] = {}

    def choose(self, budget: Budget, *, multiple_of: int = 1) -> Plan:
        """See `choose_plan`."""
        descent = self._descent(budget.unit, multiple_of)
        costs = descent.costs
        if budget.value < costs[0]:
            raise BudgetUnreachableError(
                target=budget.value, minimum=int(costs[0]), maximum=int(costs[-1]), unit=budget.unit
            )
        position = int(np.searchsorted(costs, budget.value, side="right")) - 1
        n_steps = len(descent.path) - position
        rungs = descent.rungs(n_steps)
        if n_steps > 0:
            plans, plan_costs = fill_interval(
                rungs,
                limit=int(costs[position + 1]),
                cost=self.cost,
                unit=budget.unit,
                ladders=descent.ladders,
                damages=descent.damages,
                moves=self._moves,
                worst=descent.worst_fill(position),
                tolerated_gap=TOLERATED_GAP if multiple_of == 1 else TOLERATED_GAP_MULTIPLES,
            )
            rungs = plans[int(np.searchsorted(plan_costs, budget.value, side="right")) - 1]
        return self._plan(descent.ladders.at(rungs[None, :]))

    def feasible(self, unit: Unit, *, multiple_of: int = 1) -> tuple[int, int]:
        """See `feasible_range`."""
        costs = self._descent(unit, multiple_of).costs
        return int(costs[0]), int(costs[-1])

    def full_plan(self) -> Plan:
        """The plan of the full network."""
        return self._plan(self.cost.full()[None, :])

    def _plan(self, row: IntArray) -> Plan:
        params, macs, size_bytes = (int(self.cost.evaluate(unit, row)[0]) for unit in UNITS)
        full_size = bool((row[0] == self.cost.full()).all())
        return Plan(self.cost.to_sizes(row[0]), params, macs, size_bytes, full_size)

    def _descent(self, unit: Unit, multiple_of: int) -> _Descent:
        _check_multiple(multiple_of)
        key = unit, multiple_of
        if key not in self._descents:
            self._descents[key] = self._build(unit, multiple_of)
        return self._descents[key]

    def _build(self, unit: Unit, multiple_of: int) -> _Descent:
        ladders = build_size_grids(self.cost.groups, multiple_of)
        path = path_on_grids(self._paths["macs" if unit == "macs" else "params"], ladders)
        damages = np.zeros(ladders.sizes.shape)
        for row, group in enumerate(self.cost.groups):
            damages[row] = self._curves[group.name][ladders.sizes[row]]
        costs = np.empty(len(path) + 1, dtype=np.int64)
        losses = np.empty(len(path) + 1)
        rungs = ladders.top.copy()
        for start in range(0, len(costs), _ROWS_AT_ONCE):
            chunk = path[max(start - 1, 0) : start + _ROWS_AT_ONCE - 1]
            gone = np.zeros((len(chunk), len(rungs)), dtype=np.int64)
            gone[np.arange(len(chunk)), chunk] = 1
            plans = rungs[None, :] - gone.cumsum(axis=0)
            if start == 0:
                plans = np.concatenate([rungs[None, :], plans])
            costs[start : start + len(plans)] = self.cost.evaluate(unit, ladders.at(plans))
            losses[start : start + len(plans)] = damages[np.arange(len(rungs))[None, :], plans].sum(axis=1)
            rungs = plans[-1]
        return _Descent(ladders, damages, path, costs[::-1].copy(), losses[::-1].copy())


def _check_multiple(multiple_of: int) -> None:
    valid = isinstance(multiple_of, int) and not isinstance(multiple_of, bool) and 1 <= multiple_of <= MAX_MULTIPLE
    if not valid:
        raise InvalidBudgetError(
            f"sizes cannot be multiples of {multiple_of!r}; give a whole number from 1 to {MAX_MULTIPLE}",
            multiple_of=multiple_of if isinstance(multiple_of, int | float | str) else repr(multiple_of),
        )


planner_of = WeakCache(Planner)
"""The planner of a network, made once and kept as long as the network lives."""


def choose_plan(checkpoint: Checkpoint, budget: Budget, *, multiple_of: int = 1) -> Plan:
    """The plan with the least predicted damage found for a budget.

    The cost of the plan never exceeds the budget, never falls when the budget grows, and equal budgets give equal
    plans. A budget above the full network's cost gives the full network (`full_size`).

    Args:
        checkpoint: the integral network.
        budget: what is allowed.
        multiple_of: every size is a multiple of it or the full size of its group; 1 to 1024.

    Raises:
        BudgetUnreachableError: the budget is below the smallest size.
        InvalidBudgetError: `multiple_of` is out of range.
    """
    return planner_of(checkpoint).choose(budget, multiple_of=multiple_of)


def feasible_range(checkpoint: Checkpoint, unit: Unit, multiple_of: int = 1) -> tuple[int, int]:
    """Smallest and largest cost that plans of the network have.

    Args:
        checkpoint: the integral network.
        unit: `params`, `macs` or `bytes`.
        multiple_of: as in `choose_plan`.
    """
    return planner_of(checkpoint).feasible(unit, multiple_of=multiple_of)
