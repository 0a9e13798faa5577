"""Normalization statistics of every size, from knots along the size paths: no pass over data at request time.

Moments of pre-activations drift with size, smoothly along a path. They are measured at *knots* and interpolated
between them; `inn_core.sized.placement` says where they lie.

Plans are rarely on a path: channels of one group are exchanged for those of another to meet a budget. Moments of a node
depend most on how many channels it reads, so each node takes the knots where it reads about as many as in the plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inn_core.graph.axis import Axis, axis_size
from inn_core.graph.cost import PATH_UNITS, CostModel, Unit
from inn_core.graph.structure import Sizes
from inn_core.integral.nested_sampler import Sampler
from inn_core.sized.batch_norm import Moments, NormalizedNode

MomentsByWeight = Mapping[str, Moments]
Bracket = tuple["CalibratedSize", "CalibratedSize", float]
"""Two knots and a place between them: 0 at the first, the larger one, 1 at the second."""
Measure = Callable[[Sizes], MomentsByWeight]


@dataclass(frozen=True)
class CalibratedSize:
    """Moments of every normalized node at one plan.

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
    paths: Mapping[Unit, Sequence[CalibratedSize]]

    @property
    def full(self) -> CalibratedSize:
        """The knot of the full network."""
        return self.paths[PATH_UNITS[0]][0]

    def is_measured(self, sizes: Sizes) -> bool:
        """Whether a plan is one of the knots, whose moments are not interpolated."""
        return any(knot.sizes == sizes for knots in self.paths.values() for knot in knots)

    def measured_again(self, measure: Measure) -> SizeStatistics:
        """The same knots with moments that are measured anew, each plan once."""
        known: dict[tuple[int, ...], MomentsByWeight] = {}

        def anew(knot: CalibratedSize) -> CalibratedSize:
            key = tuple(knot.sizes.values())
            if key not in known:
                known[key] = measure(knot.sizes)
            return replace(knot, moments=known[key])

        return SizeStatistics(self.cost, {unit: [anew(knot) for knot in knots] for unit, knots in self.paths.items()})

    def at(
        self, sizes: Sizes, nodes: Sequence[NormalizedNode], axes: Mapping[str, tuple[Axis, ...]], sampler: Sampler
    ) -> dict[str, Moments]:
        """Moments at any plan, interpolated on the path whose plans are closest to it.

        Args:
            sizes: of every group.
            nodes: the normalized nodes.
            axes: of every weight.
            sampler: that of the knots.

        Returns:
            Moments by weight name. At a knot they are the knot's. A channel that the knots lack where a node reads
            as many channels has the moments of the knots that cost as much, and one that these lack, too, those of
            the full network.
        """
        on_paths = (self._along(unit, sizes) for unit in PATH_UNITS)
        knots, cost = min(on_paths, key=lambda found: _distance(found[0], found[1], sizes))
        by_cost = _by_cost(knots, cost)
        result = {}
        for node in nodes:
            axis = axes[node.bias][0]
            by_input = _by_input(knots, axes[node.weight][1 - node.out_axis], sizes, cost)
            mean, spread, _ = _carried(self.full, node.weight, axis, sizes, sampler)
            for above, below, share in (by_cost, by_input):
                for weight, knot in ((1.0, above), (share, below)):
                    other_mean, other_spread, known = _carried(knot, node.weight, axis, sizes, sampler)
                    mean = torch.where(known, torch.lerp(mean, other_mean, weight), mean)
                    spread = torch.where(known, torch.lerp(spread, other_spread, weight), spread)
            result[node.weight] = Moments(mean, spread.square())
        return result

    def _along(self, unit: Unit, sizes: Sizes) -> tuple[Sequence[CalibratedSize], int]:
        """The knots of a path, and what a plan costs in its unit."""
        return self.paths[unit], int(self.cost.evaluate(unit, self.cost.to_row(sizes))[0])


def _by_cost(knots: Sequence[CalibratedSize], cost: int) -> Bracket:
    """The knots around a cost, and its place between them (0 above, 1 below)."""
    position = next((i for i, knot in enumerate(knots) if knot.cost <= cost), len(knots) - 1)
    above, below = knots[max(position - 1, 0)], knots[position]
    share = 1.0
    if above.cost > below.cost:
        share = math.log(above.cost / max(cost, 1)) / math.log(above.cost / below.cost)
        share = min(max(share, 0.0), 1.0)
    return above, below, share


def _by_input(knots: Sequence[CalibratedSize], axis: Axis, sizes: Sizes, cost: int) -> Bracket:
    """The knots around a plan by how many channels a node reads, and by cost among knots where it reads as many."""
    count = axis_size(axis, sizes)
    counts = [axis_size(axis, knot.sizes) for knot in knots]
    equal = [knot for knot, other in zip(knots, counts, strict=True) if other == count]
    if equal:
        return _by_cost(equal, cost)
    below = next((i for i, other in enumerate(counts) if other < count), len(knots))
    if below in (0, len(knots)):  # kernels may have more channels than the full network
        nearest = knots[min(below, len(knots) - 1)]
        return nearest, nearest, 1.0
    return knots[below - 1], knots[below], (counts[below - 1] - count) / (counts[below - 1] - counts[below])


def _distance(knots: Sequence[CalibratedSize], cost: int, sizes: Sizes) -> float:
    """How far a plan is from the path between two of its knots."""
    above, below, share = _by_cost(knots, cost)
    return sum(
        abs(math.log(sizes[name] / (above.sizes[name] ** (1 - share) * below.sizes[name] ** share))) for name in sizes
    )


def _carried(
    knot: CalibratedSize, weight: str, axis: Axis, sizes: Sizes, sampler: Sampler
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation of a knot in the channels of a plan, and which of them the knot has.

    Deviations are interpolated, and not logarithms of variances: where a channel is dead at one knot and alive at the
    next, a geometric mean would be close to zero, and the folded weights would explode.
    """
    moments = knot.moments[weight]
    mean, known = sampler.carried(moments.mean, axis, knot.sizes, sizes)
    spread, _ = sampler.carried(moments.variance.sqrt(), axis, knot.sizes, sizes)
    return mean, spread, known
