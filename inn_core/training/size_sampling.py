"""Random sizes for training: plans along the size path, and independent sizes per group (Algorithm 1 of the paper).

Both are drawn, since both are asked for: exports follow the size path of a budget, while independent sizes keep the
network accurate off the path (other units, multiples, exchanges) and are what the paper trains on.

The sizes of one training step are drawn from equal parts of the path, one each: chance then leaves no stretch of it
out for long (stratified sampling). The sandwich rule trains the smallest size in every step; it need not be so often.

Source: Solodskikh et al., CVPR 2023, Algorithm 1; the sandwich rule of Yu and Huang, arXiv 1903.05134.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import InvalidBudgetError
from inn_core.graph.structure import Sizes
from inn_core.planning.plan import Budget, Planner, planner_of

SMALLEST_SHARE = 0.04
"""Of the parameters: what training reaches down to unless it is told otherwise."""

SMALLEST_OFTEN = 0.4
"""Share of the steps that train the smallest size itself; tried on images that were held out."""


class SizeSampler:
    """A reproducible stream of sizes.

    Draw number k depends on the seed and on k alone, never on global random state, so that every process of a
    distributed run draws the same sizes without talking to the others, and a resumed run goes on where it stopped.

    Args:
        checkpoint: whose sizes.
        smallest: share of the parameters of the smallest size, in (0, 1); not below what the network can reach.
        independent: share of the draws that take an independent size per group.
        seed: of the stream.

    Raises:
        InvalidBudgetError: a share is out of range.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, smallest: float = SMALLEST_SHARE, independent: float = 0.5, seed: int = 0
    ) -> None:
        for name, value in (("smallest", smallest), ("independent", independent)):
            if not 0 <= value <= 1 or math.isnan(value):
                raise InvalidBudgetError(f"{name} is {value}; give a share from 0 to 1", **{name: value})
        self._planner: Planner = planner_of(checkpoint)
        self._groups = checkpoint.structure.groups
        self._independent = independent
        self._seed = seed
        self._smallest = smallest
        lowest, self._highest = self._planner.feasible("params")
        self._lowest = max(lowest, min(round(smallest * self._highest), self._highest))
        self.smallest: Sizes = self._at(self._lowest)
        """The smallest plan that is trained."""
        self.full: Sizes = {group.name: group.size for group in self._groups}
        """The full network."""

    def identity(self) -> list[float]:
        """What decides the draws, besides the checkpoint."""
        return [self._smallest, self._independent, self._seed]

    def draw(self, number: int) -> Sizes:
        """Draw number `number`: a plan whose parameters are log-uniform, or independent uniform sizes per group."""
        return self._draw(np.random.default_rng([self._seed, number]), 0.0, 1.0)

    def step(self, number: int, count: int) -> list[Sizes]:
        """The sizes below the full one of a training step, draw number `number`.

        Args:
            number: of the draw.
            count: of the sizes. Size i is a draw from part i of so many equal parts of the log-range of parameters,
                the smallest first; in `SMALLEST_OFTEN` of the steps the first is the smallest size itself.
        """
        random = np.random.default_rng([self._seed, number, 1])
        ends = np.linspace(0.0, 1.0, count + 1)
        sizes = [self._draw(random, float(low), float(high)) for low, high in itertools.pairwise(ends)]
        if sizes and random.random() < SMALLEST_OFTEN:
            sizes[0] = self.smallest
        return sizes

    def _draw(self, random: np.random.Generator, low: float, high: float) -> Sizes:
        """A size of the path between two places of it (0 the smallest, 1 the full network), or independent sizes."""
        if random.random() < self._independent:
            return {
                group.name: int(random.integers(self.smallest[group.name], group.size + 1)) for group in self._groups
            }
        place = low + (high - low) * random.random()
        return self._at(round(math.exp(math.log(self._lowest) * (1 - place) + math.log(self._highest) * place)))

    def _at(self, params: int) -> Sizes:
        return self._planner.choose(Budget("params", params)).sizes
