"""Where the knots of normalization statistics lie on the size paths: as many as interpolation between them needs.

An interval is halved as long as the network with interpolated moments differs, at its middle or at the middle of a
half, by more than a bound from the one with measured moments. The worst interval comes first, since a path has only
so many knots.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from inn_core.arrays import IntArray
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.sizes_validation import MOST_KNOTS
from inn_core.graph.cost import PATH_UNITS, CostModel, Unit
from inn_core.graph.structure import Sizes
from inn_core.sized.size_statistics import CalibratedSize, Measure, MomentsByWeight, SizeStatistics

COARSE_RATIO = 0.5  # cost of a knot over that of the one before, at the start
DIVERGENCE_BOUND = 1e-3  # of outputs, in nats for classifiers, squared relative error otherwise
CLOSEST_RATIO = 0.97  # knots are not placed closer than this

Difference = Callable[[Sizes, MomentsByWeight, MomentsByWeight], float]
Interpolate = Callable[[SizeStatistics, Sizes], MomentsByWeight]


def place_knots(
    checkpoint: Checkpoint, *, smallest: Sizes, measure: Measure, difference: Difference, interpolate: Interpolate
) -> SizeStatistics:
    """Measure knots along both size paths until interpolation is good enough in between.

    Args:
        checkpoint: whose paths.
        smallest: plan down to whose parameters (on the other path, multiply-accumulates) knots reach.
        measure: moments at a plan.
        difference: what using the second moments instead of the first does to the outputs, compared with
            DIVERGENCE_BOUND.
        interpolate: moments at a plan from statistics that are not yet complete.
    """
    cost = CostModel.of(checkpoint.template, checkpoint.structure)
    full = cost.to_sizes(cost.full())
    moments = measure(full)
    paths: dict[Unit, list[CalibratedSize]] = {
        unit: [CalibratedSize(int(cost.evaluate(unit, cost.full()[None])[0]), full, moments)] for unit in PATH_UNITS
    }
    statistics = SizeStatistics(cost, paths)

    def off(knot: CalibratedSize) -> float:
        return difference(knot.sizes, knot.moments, interpolate(statistics, knot.sizes))

    for unit in PATH_UNITS:
        path = _Path.of(cost, checkpoint.paths[unit], unit, measure)
        low = int(cost.evaluate(unit, cost.to_row(smallest))[0])
        knots = paths[unit]
        for target in _coarse(knots[0].cost, low):
            _insert(knots, path.within(target))
        _halve_(knots, path, off)
    return statistics


def without_moments(checkpoint: Checkpoint, smallest: Sizes) -> SizeStatistics:
    """The statistics of a network in which nothing is normalized: knots without moments."""
    return place_knots(
        checkpoint,
        smallest=smallest,
        measure=lambda _: {},
        difference=lambda *_: 0.0,
        interpolate=lambda *_: {},
    )


def _halve_(knots: list[CalibratedSize], path: _Path, off: Callable[[CalibratedSize], float]) -> None:
    """Add knots until every interval is good, no interval is long enough, or there are enough; the worst come first.

    Args:
        knots: of the path, the full network first.
        path: where they lie.
        off: what interpolation from the knots so far does to the outputs at a plan.
    """
    poor: list[tuple[float, int, CalibratedSize, CalibratedSize]] = []  # a heap: costs differ, knots are not compared

    def judge(above: CalibratedSize, below: CalibratedSize) -> None:
        if below.cost <= above.cost * CLOSEST_RATIO:
            worst = max(map(off, path.inside(above, below)), default=0.0)
            if worst > DIVERGENCE_BOUND:
                heapq.heappush(poor, (-worst, above.cost, above, below))

    for pair in list(pairwise(knots)):
        judge(*pair)
    while poor and len(knots) < MOST_KNOTS:
        *_, above, below = heapq.heappop(poor)
        middle = path.between(above, below)
        assert middle is not None, "something was judged there"
        _insert(knots, middle)
        judge(above, middle)
        judge(middle, below)


def _coarse(full: int, low: int) -> list[int]:
    count = max(1, math.ceil(math.log(full / max(low, 1)) / -math.log(COARSE_RATIO)))
    count = min(count, MOST_KNOTS - 1)
    return [round(float(target)) for target in np.geomspace(full, max(low, 1), count + 1)[1:]]


@dataclass(frozen=True)
class _Path:
    """The plans of a size path, the full network first, and their moments, each measured once.

    Attributes:
        cost: of the network.
        rows: sizes of every plan, shape `(n_plans, n_groups)`.
        costs: of every plan, shape `(n_plans,)`, in the unit of the path.
        measure: moments at a plan.
        measured: what was measured so far, by position on the path.
    """

    cost: CostModel
    rows: IntArray
    costs: IntArray
    measure: Measure
    measured: dict[int, CalibratedSize]

    @classmethod
    def of(cls, cost: CostModel, path: NDArray[np.int32], unit: Unit, measure: Measure) -> _Path:
        """The path on which the given groups lose a channel one after the other."""
        gone = np.zeros((len(path) + 1, len(cost.groups)), dtype=np.int64)
        gone[np.arange(1, len(path) + 1), path] = 1
        rows = cost.full()[None, :] - gone.cumsum(axis=0)
        return cls(cost, rows, cost.evaluate(unit, rows), measure, {})

    def within(self, target: int) -> CalibratedSize:
        """The largest plan that costs at most `target`; the smallest when none does."""
        return self._knot(self._first_within(target))

    def between(self, above: CalibratedSize, below: CalibratedSize) -> CalibratedSize | None:
        """The plan in the middle between two knots, by the logarithm of cost; None when there is none between them."""
        index = self._first_within(round(math.sqrt(above.cost * below.cost)))
        if self.costs[index] <= below.cost:
            index -= 1  # the middle of few plans
        return self._knot(index) if below.cost < self.costs[index] < above.cost else None

    def inside(self, above: CalibratedSize, below: CalibratedSize) -> Iterator[CalibratedSize]:
        """Where an interval is judged: its middle and the middles of its halves."""
        middle = self.between(above, below)
        if middle is not None:
            yield middle
            for half in ((above, middle), (middle, below)):
                quarter = self.between(*half)
                if quarter is not None:
                    yield quarter

    def _first_within(self, target: int) -> int:
        return min(int(np.searchsorted(-self.costs, -target)), len(self.costs) - 1)

    def _knot(self, index: int) -> CalibratedSize:
        if index not in self.measured:
            sizes = self.cost.to_sizes(self.rows[index])
            self.measured[index] = CalibratedSize(int(self.costs[index]), sizes, self.measure(sizes))
        return self.measured[index]


def _insert(knots: list[CalibratedSize], knot: CalibratedSize) -> None:
    if all(knot.cost != other.cost for other in knots):
        knots.append(knot)
        knots.sort(key=lambda each: -each.cost)
