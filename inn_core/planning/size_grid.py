"""Rungs: the sizes that a group may have when sizes must be multiples of a number, and the size path on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inn_core.arrays import IntArray
from inn_core.graph.structure import Group


@dataclass(frozen=True)
class SizeGrids:
    """The allowed sizes of every group, smallest first.

    Attributes:
        sizes: shape `(n_groups, longest)`; a row is filled up with its last rung, the full size.
        top: index of the full size in each row, shape `(n_groups,)`.
    """

    sizes: IntArray
    top: IntArray

    def at(self, rungs: IntArray) -> IntArray:
        """Sizes on the given rungs; shape `(n_plans, n_groups)` to the same shape."""
        return self.sizes[np.arange(len(self.top))[None, :], rungs]


def build_size_grids(groups: tuple[Group, ...], multiple_of: int) -> SizeGrids:
    """Multiples from the first one that is no smaller than the minimum, and the full size on top."""
    rows = []
    for group in groups:
        first = -(-group.minimum // multiple_of) * multiple_of
        rows.append([*range(first, group.size, multiple_of), group.size])
    longest = max((len(row) for row in rows), default=1)
    sizes = np.array([row + row[-1:] * (longest - len(row)) for row in rows], dtype=np.int64).reshape(-1, longest)
    return SizeGrids(sizes, np.array([len(row) - 1 for row in rows], dtype=np.int64))


def path_on_grids(path: NDArray[np.int32], ladders: SizeGrids) -> NDArray[np.int32]:
    """The path of single channels as a path of rungs.

    A group steps down a rung when its size on the path comes to the middle between two rungs, so that a plan on the
    rungs stays as close to the plan of the same prefix as it can.

    Args:
        path: group index at each step, from full size to minimum.
        ladders: the allowed sizes.

    Returns:
        Group index at each rung step; group g occurs `top[g]` times.
    """
    n_groups = len(ladders.top)
    removed = np.zeros(len(path), dtype=np.int64)  # channels of the same group gone after each step
    keep = np.zeros(len(path), dtype=bool)
    for group in range(n_groups):
        at = np.flatnonzero(path == group)
        removed[at] = np.arange(1, len(at) + 1)
        rungs = ladders.sizes[group, : ladders.top[group] + 1]
        middles = (rungs[:-1] + rungs[1:]) // 2
        keep[at] = np.isin(rungs[-1] - removed[at], middles)
    return path[keep]
