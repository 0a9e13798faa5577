"""Normalisation statistics of every size, from knots along the size paths: no pass over data at request time.

Moments of pre-activations drift with size, smoothly along a path. They are measured at *knots* and interpolated
between them; `inn_core.knot_placement` says where they lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inn_core.cost import PATH_UNITS, CostModel, Unit
from inn_core.graph.axis import Axis
from inn_core.network import Sizes
from inn_core.normalisation import Moments, NormalisedNode
from inn_core.sampler import Sampler

MomentsByWeight = Mapping[str, Moments]
Measure = Callable[[Sizes], MomentsByWeight]


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

    def measured_again(self, measure: Measure) -> SizeStatistics:
        """The same knots with moments that are measured anew, each plan once."""
        known: dict[tuple[int, ...], MomentsByWeight] = {}

        def anew(knot: StatisticsKnot) -> StatisticsKnot:
            key = tuple(knot.sizes.values())
            if key not in known:
                known[key] = measure(knot.sizes)
            return replace(knot, moments=known[key])

        return SizeStatistics(self.cost, {unit: [anew(knot) for knot in knots] for unit, knots in self.paths.items()})

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
