"""How a measured quantity of a device grows with the size of a network: fitted to a few sizes, never falling.

Runs of small networks are not proportional to their size. The model is a fixed overhead, a share for each
multiply-accumulate and a share for each byte of the artifact, none negative. Real curves also have steps (vector
widths) and cliffs (caches), so what the model leaves over is interpolated between neighbouring measurements, after
these were made to rise with the size: noise must not make a larger network look faster than a smaller one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from service.contract.sizes import CountedUnit

FloatArray = NDArray[np.float64]

GRID_POINTS = 1024


@dataclass(frozen=True, order=True)
class Size:
    """What an artifact costs, as its manifest says."""

    macs: int
    params: int
    bytes: int

    def of(self, unit: CountedUnit) -> int:
        """The cost in one unit."""
        value: int = getattr(self, unit)
        return value


@dataclass(frozen=True)
class Measured:
    """One size and what a device measured of it.

    Attributes:
        size: of the artifact.
        value: milliseconds or bytes, finite and positive.
        target: that was asked for in the unit of the search; None for a rung of the ladder.
    """

    size: Size
    value: float
    target: int | None = None

    def reach(self, unit: CountedUnit) -> int:
        """The largest target known to end in this size."""
        return max(self.size.of(unit), self.target or 0)


@dataclass(frozen=True)
class Curve:
    """Expected values by size, on a fine grid; both arrays rise.

    Attributes:
        sizes: in the unit of the search, shape `(n_points,)`.
        values: expected, shape `(n_points,)`.
    """

    sizes: FloatArray
    values: FloatArray

    def value(self, size: float) -> float:
        """What to expect of a size; beyond the ends, what the end has."""
        return float(np.exp(np.interp(np.log(size), np.log(self.sizes), np.log(self.values))))

    def largest(self, limit: float) -> float:
        """The largest size expected to be within a limit; the smallest size when none is."""
        inside = np.flatnonzero(self.values <= limit)
        if len(inside) == 0:
            return float(self.sizes[0])
        last = int(inside[-1])
        if last + 1 == len(self.sizes):
            return float(self.sizes[-1])
        low, high = np.log(self.values[last : last + 2])
        share = (np.log(limit) - low) / (high - low)
        return float(np.exp((1 - share) * np.log(self.sizes[last]) + share * np.log(self.sizes[last + 1])))


def fit(measured: Sequence[Measured], *, feasible: tuple[int, int], unit: CountedUnit) -> Curve:
    """The curve through what was measured.

    Args:
        measured: at least one; several of one size count as their median.
        feasible: smallest and largest size in `unit`; the curve covers them and all that was measured.
        unit: of the sizes.

    Returns:
        A curve that rises and passes through every measurement that does not contradict the others.
    """
    sizes, costs, values = _by_size(measured, unit)
    values = rising(values)
    ends = min(float(sizes[0]), feasible[0]), max(float(sizes[-1]), feasible[1])
    grid = np.unique(np.concatenate([np.geomspace(*ends, GRID_POINTS).clip(*ends), sizes]))
    grid_costs = np.stack([_interpolated(grid, sizes, column) for column in costs.T], axis=1)
    coefficients = _non_negative(_features(costs), values)
    rest = values - _features(costs) @ coefficients
    expected = _features(grid_costs) @ coefficients + np.interp(grid, sizes, rest)
    # Between two measurements the curve stays between their values.
    left = np.searchsorted(sizes, grid, side="right") - 1
    lower = np.where(left >= 0, values[left.clip(0)], 0.0)
    right = np.searchsorted(sizes, grid, side="left")
    upper = np.where(right < len(sizes), values[right.clip(max=len(sizes) - 1)], np.inf)
    return Curve(grid, np.maximum.accumulate(expected.clip(lower, upper)))


def rising(values: FloatArray) -> FloatArray:
    """The nearest sequence, in squared ratios, that never falls; neighbours that fall share their geometric mean."""
    blocks: list[tuple[float, int]] = []
    for value in np.log(values):
        mean, count = float(value), 1
        while blocks and blocks[-1][0] > mean:
            before, n_before = blocks.pop()
            mean, count = (before * n_before + mean * count) / (n_before + count), n_before + count
        blocks.append((mean, count))
    merged: FloatArray = np.exp(np.concatenate([np.full(count, mean) for mean, count in blocks]))
    return merged


def _by_size(measured: Sequence[Measured], unit: CountedUnit) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sizes, rising and different, their costs `(n, 2)` in macs and bytes, and the median of their values."""
    groups: dict[int, list[Measured]] = {}
    for one in measured:
        groups.setdefault(one.size.of(unit), []).append(one)
    sizes = sorted(groups)
    costs = [(groups[size][0].size.macs, groups[size][0].size.bytes) for size in sizes]
    values = [float(np.median([one.value for one in groups[size]])) for size in sizes]
    return np.array(sizes, dtype=np.float64), np.array(costs, dtype=np.float64), np.array(values)


def _interpolated(grid: FloatArray, sizes: FloatArray, costs: FloatArray) -> FloatArray:
    """A cost at every size of the grid: between measured sizes along straight lines, beyond them in proportion."""
    inside = np.interp(grid, sizes, costs)
    below, above = np.minimum(grid / sizes[0], 1.0), np.maximum(grid / sizes[-1], 1.0)
    everywhere: FloatArray = inside * below * above
    return everywhere


def _features(costs: FloatArray) -> FloatArray:
    return np.column_stack([np.ones(len(costs)), costs])


def _non_negative(features: FloatArray, values: FloatArray) -> FloatArray:
    """Coefficients, none negative, with the least squared relative error; there are few enough to try all subsets."""
    relative = features / values[:, None]
    scales = np.linalg.norm(relative, axis=0)
    best, least = np.zeros(features.shape[1]), np.inf
    for count in range(1, features.shape[1] + 1):
        for chosen in map(list, combinations(range(features.shape[1]), count)):
            found = np.linalg.lstsq(relative[:, chosen] / scales[chosen], np.ones(len(values)), rcond=None)[0]
            if (found < 0).any():
                continue
            error = float(np.square(relative[:, chosen] / scales[chosen] @ found - 1).sum())
            if error < least * (1 - 1e-9):
                best, least = np.zeros(features.shape[1]), error
                best[chosen] = found / scales[chosen]
    return best
