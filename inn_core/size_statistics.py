"""Normalisation statistics of every size, from knots along the size paths: no pass over data at request time.

Moments of pre-activations drift with size, smoothly along a path. They are measured at *knots* and interpolated
between them. Knots are placed where they are needed: an interval is halved as long as the network with interpolated
moments differs, at its middle, by more than a bound from the one with measured moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    for unit in PATH_UNITS:
        prefixes = _path_costs(cost, checkpoint.paths[unit], unit)
        low = int(cost.evaluate(unit, cost.to_row(smallest))[0])
        knots = paths[unit]
        for target in _coarse(knots[0].cost, low):
            _insert(knots, _measured(cost, prefixes, _first_within(prefixes[1], target), measure))
        pending = list(pairwise(knots))
        while pending and len(knots) < MOST_KNOTS:
            above, below = pending.pop(0)
            if below.cost > above.cost * CLOSEST_RATIO:
                continue
            index = _first_within(prefixes[1], round(math.sqrt(above.cost * below.cost)))
            if prefixes[1][index] <= below.cost:
                index -= 1  # the middle of few plans
            if not below.cost < prefixes[1][index] < above.cost:
                continue
            middle = _measured(cost, prefixes, index, measure)
            if difference(middle.sizes, middle.moments, interpolate(statistics, middle.sizes)) > DIVERGENCE_BOUND:
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


def _path_costs(cost: CostModel, path: NDArray[np.int32], unit: Unit) -> tuple[IntArray, IntArray]:
    """Sizes and costs of all prefixes of a path, the full network first."""
    gone = np.zeros((len(path) + 1, len(cost.groups)), dtype=np.int64)
    gone[np.arange(1, len(path) + 1), path] = 1
    rows = cost.full()[None, :] - gone.cumsum(axis=0)
    return rows, cost.evaluate(unit, rows)


def _first_within(costs: IntArray, target: int) -> int:
    """Position of the largest plan that costs at most `target`; of the smallest when none does."""
    return min(int(np.searchsorted(-costs, -target)), len(costs) - 1)


def _measured(cost: CostModel, prefixes: tuple[IntArray, IntArray], index: int, measure: Measure) -> StatisticsKnot:
    rows, costs = prefixes
    sizes = cost.to_sizes(rows[index])
    return StatisticsKnot(int(costs[index]), sizes, measure(sizes))


def _insert(knots: list[StatisticsKnot], knot: StatisticsKnot) -> None:
    if all(knot.cost != other.cost for other in knots):
        knots.append(knot)
        knots.sort(key=lambda each: -each.cost)
