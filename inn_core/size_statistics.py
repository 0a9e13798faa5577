"""Normalisation statistics of every size, from knots along the size paths: no pass over data at request time.

Moments of pre-activations drift with size, smoothly along a path. They are measured at *knots* and interpolated
between them. Knots are placed where they are needed: an interval is halved as long as the network with interpolated
moments differs, at its middle or at the middle of a half, by more than a bound from the one with measured moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inn_core.cost import PATH_UNITS, CostModel, Unit
from inn_core.graph.axis import Axis
from inn_core.network import Checkpoint, Sizes
from inn_core.normalisation import Moments, NormalisedNode
from inn_core.sampler import Sampler
from inn_core.trained_check import MOST_KNOTS

COARSE_RATIO = 0.5  # cost of a knot over that of the one before, at the start
DIVERGENCE_BOUND = 2e-3  # of outputs, in nats for classifiers, squared relative error otherwise
CLOSEST_RATIO = 0.93  # knots are not placed closer than this

IntArray = NDArray[np.int64]
MomentsByWeight = Mapping[str, Moments]
Measure = Callable[[Sizes], MomentsByWeight]
Difference = Callable[[Sizes, MomentsByWeight, MomentsByWeight], float]


@dataclass(frozen=True)
class StatisticsKnot:
    """Moments of every normalised node at one plan.

    Attributes:
        cost: of the plan, in the unit of its path.
        sizes: of every group.
        moments: by weight name, in the channels of the plan.
    """

    cost: int
    sizes: Sizes
    moments: MomentsByWeight


@dataclass(frozen=True)
class SizeStatistics:
    """Knots of both size paths.

    Attributes:
        cost: of the network.
        paths: `unit -> knots`, the full network first, then smaller ones. All sizes of a path are nested.
    """

    cost: CostModel
    paths: Mapping[Unit, Sequence[StatisticsKnot]]

    @property
    def full(self) -> StatisticsKnot:
        """The knot of the full network."""
        return self.paths[PATH_UNITS[0]][0]

    def is_measured(self, sizes: Sizes) -> bool:
        """Whether a plan is one of the knots, whose moments are not interpolated."""
        return any(knot.sizes == sizes for knots in self.paths.values() for knot in knots)

    def at(
        self, sizes: Sizes, nodes: Sequence[NormalisedNode], axes: Mapping[str, tuple[Axis, ...]], sampler: Sampler
    ) -> dict[str, Moments]:
        """Moments at any plan, interpolated on the path whose plans are closest to it.

        Args:
            sizes: of every group.
            nodes: the normalised nodes.
            axes: of every weight.
            sampler: that of the knots.

        Returns:
            Moments by weight name. At a knot they are the knot's. A channel that the knot below lacks has the
            moments of the knot above, and one that this lacks, too, those of the full network.
        """
        above, below, share = min((self._bracket(unit, sizes) for unit in PATH_UNITS), key=lambda found: found[3])[:3]
        result = {}
        for node in nodes:
            axis = axes[node.bias][0]
            parts = [_carried(knot, node.weight, axis, sizes, sampler) for knot in (self.full, above, below)]
            (mean, spread, _), *nearer = parts
            for weight, (other_mean, other_spread, known) in zip((1.0, share), nearer, strict=True):
                mean = torch.where(known, torch.lerp(mean, other_mean, weight), mean)
                spread = torch.where(known, torch.lerp(spread, other_spread, weight), spread)
            result[node.weight] = Moments(mean, spread.square())
        return result

    def _bracket(self, unit: Unit, sizes: Sizes) -> tuple[StatisticsKnot, StatisticsKnot, float, float]:
        """The knots around a plan by cost, its place between them (0 above, 1 below), its distance from the path."""
        knots = self.paths[unit]
        cost = int(self.cost.evaluate(unit, self.cost.to_row(sizes))[0])
        position = next((i for i, knot in enumerate(knots) if knot.cost <= cost), len(knots) - 1)
        above, below = knots[max(position - 1, 0)], knots[position]
        share = 1.0
        if above.cost > below.cost:
            share = math.log(above.cost / max(cost, 1)) / math.log(above.cost / below.cost)
            share = min(max(share, 0.0), 1.0)
        distance = sum(
            abs(math.log(sizes[name] / (above.sizes[name] ** (1 - share) * below.sizes[name] ** share)))
            for name in sizes
        )
        return above, below, share, distance


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
    cost = CostModel.of(checkpoint)
    full = cost.to_sizes(cost.full())
    moments = measure(full)
    paths: dict[Unit, list[StatisticsKnot]] = {
        unit: [StatisticsKnot(int(cost.evaluate(unit, cost.full()[None])[0]), full, moments)] for unit in PATH_UNITS
    }
    statistics = SizeStatistics(cost, paths)

    def is_poor(knot: StatisticsKnot) -> bool:
        return difference(knot.sizes, knot.moments, interpolate(statistics, knot.sizes)) > DIVERGENCE_BOUND

    for unit in PATH_UNITS:
        path = _Path.of(cost, checkpoint.paths[unit], unit, measure)
        low = int(cost.evaluate(unit, cost.to_row(smallest))[0])
        knots = paths[unit]
        for target in _coarse(knots[0].cost, low):
            _insert(knots, path.within(target))
        pending = list(pairwise(knots))
        while pending and len(knots) < MOST_KNOTS:
            above, below = pending.pop(0)
            if below.cost <= above.cost * CLOSEST_RATIO and any(map(is_poor, path.inside(above, below))):
                middle = path.between(above, below)
                assert middle is not None, "something was judged there"
                _insert(knots, middle)
                pending += [(above, middle), (middle, below)]
    return statistics


def without_moments(checkpoint: Checkpoint, smallest: Sizes) -> SizeStatistics:
    """The statistics of a network in which nothing is normalised: knots without moments."""
    return place_knots(
        checkpoint,
        smallest=smallest,
        measure=lambda _: {},
        difference=lambda *_: 0.0,
        interpolate=lambda *_: {},
    )


def _carried(
    knot: StatisticsKnot, weight: str, axis: Axis, sizes: Sizes, sampler: Sampler
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation of a knot in the channels of a plan, and which of them the knot has.

    Deviations are interpolated, and not logarithms of variances: where a channel is dead at one knot and alive at the
    next, a geometric mean would be close to zero, and the folded weights would explode.
    """
    moments = knot.moments[weight]
    mean, known = sampler.carried(moments.mean, axis, knot.sizes, sizes)
    spread, _ = sampler.carried(moments.variance.sqrt(), axis, knot.sizes, sizes)
    return mean, spread, known


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
    measured: dict[int, StatisticsKnot]

    @classmethod
    def of(cls, cost: CostModel, path: NDArray[np.int32], unit: Unit, measure: Measure) -> _Path:
        """The path on which the given groups lose a channel one after the other."""
        gone = np.zeros((len(path) + 1, len(cost.groups)), dtype=np.int64)
        gone[np.arange(1, len(path) + 1), path] = 1
        rows = cost.full()[None, :] - gone.cumsum(axis=0)
        return cls(cost, rows, cost.evaluate(unit, rows), measure, {})

    def within(self, target: int) -> StatisticsKnot:
        """The largest plan that costs at most `target`; the smallest when none does."""
        return self._knot(self._first_within(target))

    def between(self, above: StatisticsKnot, below: StatisticsKnot) -> StatisticsKnot | None:
        """The plan in the middle between two knots, by the logarithm of cost; None when there is none between them."""
        index = self._first_within(round(math.sqrt(above.cost * below.cost)))
        if self.costs[index] <= below.cost:
            index -= 1  # the middle of few plans
        return self._knot(index) if below.cost < self.costs[index] < above.cost else None

    def inside(self, above: StatisticsKnot, below: StatisticsKnot) -> Iterator[StatisticsKnot]:
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

    def _knot(self, index: int) -> StatisticsKnot:
        if index not in self.measured:
            sizes = self.cost.to_sizes(self.rows[index])
            self.measured[index] = StatisticsKnot(int(self.costs[index]), sizes, self.measure(sizes))
        return self.measured[index]


def _insert(knots: list[StatisticsKnot], knot: StatisticsKnot) -> None:
    if all(knot.cost != other.cost for other in knots):
        knots.append(knot)
        knots.sort(key=lambda each: -each.cost)
