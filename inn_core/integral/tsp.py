"""Shortest path through all points of a distance matrix: iterated local search, equal input to equal order.

The travelling salesman without the way home, which smoothing orders need (`smoothing.py`). A greedy start, then 2-opt
and Or-opt moves over the nearest neighbours of a point, with a queue of points whose surroundings changed; then small
random kicks (two neighbouring stretches swap places), each repaired in the same way and undone when it did not pay.
Inside, distances are integers: gains are exact, so there is no tolerance to choose and no endless loop.

Source: Or 1976; Bentley, "Fast Algorithms for Geometric Traveling Salesman Problems", 1992 (neighbour lists, don't-look
bits); Johnson and McGeoch, "The Traveling Salesman Problem: A Case Study in Local Optimization", 1997 (iterated local
search with kicks that stay local). Why not a library: docs/decisions/smoothing-order.md.
"""

from __future__ import annotations

import random
from array import array
from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

LONGEST = 2**30  # integer length of the longest distance; 2**31 of them still fit 64 bits
NEIGHBOURS = 10  # candidates for a new edge, beside the free ones to the virtual point
KICKS_PER_POINT = 10  # 20 shorten the path by another 0.1 % and take twice the time
KICK_WINDOW = 50  # steps of the tour that one kick may touch: repairs stay local
LONGEST_MOVED = 3  # points that one Or-opt move may carry


def hamiltonian_path(distances: NDArray[np.floating], *, seed: int) -> NDArray[np.int64]:
    """An order of all points along which the summed distance is small.

    Args:
        distances: shape `(n, n)`, finite, symmetric, not negative; any scale.
        seed: decides the kicks; equal distances and seed give an equal order.

    Returns:
        A permutation, shape `(n,)`; of the two directions the one that starts with the smaller index. n = 0, 1, 2 and
        distances that are all equal give `0, 1, …`. Not promised: that it is the shortest, or shorter than `0, 1, …`.
    """
    n = distances.shape[0]
    longest = float(distances.max()) if n else 0.0
    if n < 3 or longest <= 0.0:
        return np.arange(n, dtype=np.int64)
    scaled = np.rint(distances / longest * LONGEST).astype(np.int64)
    np.fill_diagonal(scaled, 0)
    off_diagonal = scaled[~np.eye(n, dtype=bool)]
    if off_diagonal.min() == off_diagonal.max():
        return np.arange(n, dtype=np.int64)
    search = _Search(scaled, greedy_path(scaled))
    search.repair(range(n + 1))
    search.kick(KICKS_PER_POINT * n, random.Random(seed))
    order = np.array(search.path(), dtype=np.int64)
    return order if order[0] < order[-1] else order[::-1].copy()


def greedy_path(distances: NDArray[np.int64]) -> list[int]:
    """The path that grows from all short edges at once: the shortest edge that closes no cycle and forks nowhere, again
    and again.

    Args:
        distances: shape `(n, n)`, symmetric, n at least 1.

    Returns:
        A permutation of `0..n-1`.
    """
    n = distances.shape[0]
    first, second = np.triu_indices(n, 1)
    ranking = np.argsort(distances[first, second], kind="stable")
    adjacent: list[list[int]] = [[] for _ in range(n)]
    other_end = list(range(n))  # of the piece that a point ends
    left = n - 1
    for start in range(0, len(ranking), 1 << 16):
        if not left:
            break
        block = ranking[start : start + (1 << 16)]
        for a, b in zip(first[block].tolist(), second[block].tolist(), strict=True):
            if len(adjacent[a]) < 2 and len(adjacent[b]) < 2 and other_end[a] != b:
                adjacent[a].append(b)
                adjacent[b].append(a)
                end_a, end_b = other_end[a], other_end[b]
                other_end[end_a], other_end[end_b] = end_b, end_a
                left -= 1
    point = next(i for i in range(n) if len(adjacent[i]) < 2)
    path, previous = [point], -1
    while len(path) < n:
        following = next(i for i in adjacent[point] if i != previous)
        previous, point = point, following
        path.append(point)
    return path


class _Search:
    """A closed tour through the points and one virtual point, at distance 0 from all: cut there, it is the path."""

    def __init__(self, distances: NDArray[np.int64], path: list[int]) -> None:
        n = distances.shape[0]
        self.virtual = n
        self.length = n + 1
        full = np.zeros((n + 1, n + 1), dtype=np.int64)
        full[:n, :n] = distances
        self.rows = [array("q", row.tobytes()) for row in full]
        hidden = distances.copy()
        np.fill_diagonal(hidden, np.iinfo(np.int64).max)
        nearest = np.argsort(hidden, axis=1, kind="stable")[:, : min(NEIGHBOURS, n - 1)]
        self.neighbours = [[self.virtual, *row] for row in nearest.tolist()]
        self.neighbours.append([])  # edges of the virtual point are free already: nothing to gain from its side
        self.tour = [*path, self.virtual]
        self.position = [0] * self.length
        for index, point in enumerate(self.tour):
            self.position[point] = index
        self.changes: list[tuple[int, int]] = []  # reversals since the last kick, to undo it

    def path(self) -> list[int]:
        """The points from one end of the path to the other."""
        cut = self.position[self.virtual]
        return self.tour[cut + 1 :] + self.tour[:cut]

    def repair(self, points: Iterable[int]) -> int:
        """Improve around the points, and around what that changes, until no move helps; returns what was gained."""
        queue = deque(points)
        waiting = set(queue)
        gained = 0
        while queue:
            point = queue.popleft()
            waiting.discard(point)
            while found := self._exchange_two(point) or self._move_stretch(point):
                gain, ends = found
                gained += gain
                for end in ends:
                    if end not in waiting:
                        waiting.add(end)
                        queue.append(end)
        return gained

    def kick(self, count: int, source: random.Random) -> None:
        """Swap two neighbouring stretches at random and repair, `count` times; undo what did not pay."""
        window = min(KICK_WINDOW, self.length - 2)
        if window < 3:
            return
        for _ in range(count):
            self.changes.clear()
            start = source.randrange(self.length)
            one, two, three = sorted(source.sample(range(1, window + 1), 3))
            ends = tuple(self.tour[(start + step) % self.length] for i in (one, two, three) for step in (i - 1, i))
            a, b, c, d, e, f = ends
            rows = self.rows
            cost = rows[a][d] + rows[e][b] + rows[c][f] - rows[a][b] - rows[c][d] - rows[e][f]
            self._swap(a, b, c, d, e, f, turned=False)
            if self.repair(ends) < cost:
                for first, last in reversed(self.changes):
                    self._reverse(first, last)

    def _exchange_two(self, a: int) -> tuple[int, tuple[int, ...]] | None:
        """2-opt: two edges at `a` and at one of its neighbours give way to the shorter two."""
        tour, position, rows, length = self.tour, self.position, self.rows, self.length
        row = rows[a]
        for side in (1 - length, -1):
            b = tour[position[a] + side]
            edge = row[b]
            for c in self.neighbours[a]:
                saved = edge - row[c]
                if saved <= 0:
                    break
                d = tour[position[c] + side]
                gain = saved + rows[c][d] - rows[b][d]
                if gain > 0:
                    self._exchange(a, b, c, d)
                    return gain, (a, b, c, d)
        return None

    def _move_stretch(self, a: int) -> tuple[int, tuple[int, ...]] | None:
        """Or-opt: a short stretch that ends in `a` moves between a neighbour of `a` and the point beside it."""
        tour, position, rows, length = self.tour, self.position, self.rows, self.length
        row = rows[a]
        for side, back in ((1 - length, -1), (-1, 1 - length)):  # the stretch goes from `a` to this side
            p = tour[position[a] + back]
            stretch, e = [a], a
            for _ in range(min(LONGEST_MOVED, length - 3)):
                q = tour[position[e] + side]
                freed = row[p] + rows[e][q] - rows[p][q]
                far = rows[e]
                for c in self.neighbours[a]:
                    saved = freed - row[c]
                    if saved <= 0:
                        break
                    if c in stretch:
                        continue
                    f = tour[position[c] + side]
                    if f != a:
                        gain = saved + rows[c][f] - far[f]
                        if gain > 0:
                            self._swap(p, a, e, q, c, f, turned=False)
                            return gain, (p, a, e, q, c, f)
                    f = tour[position[c] + back]
                    if f != e:
                        gain = saved + rows[c][f] - far[f]
                        if gain > 0:
                            self._swap(p, a, e, q, f, c, turned=True)
                            return gain, (p, a, e, q, c, f)
                e = q
                stretch.append(e)
        return None

    def _swap(self, a: int, b: int, c: int, d: int, e: int, f: int, *, turned: bool) -> None:
        """Of a tour `a b…c d…e f…` in either direction make `a d…e b…c f…`, or with `b…c` turned around."""
        self._exchange(a, b, e, f)  # a e…d c…b f
        self._exchange(a, e, d, c)  # a d…e c…b f
        if not turned:
            self._exchange(e, c, b, f)

    def _exchange(self, a: int, b: int, c: int, d: int) -> None:
        """Replace the edges a-b and c-d of a tour `a b…c d…`, in either direction, by a-c and b-d."""
        position = self.position
        if self.tour[position[a] + 1 - self.length] == b:
            first, last = position[b], position[c]
        else:
            first, last = position[c], position[b]
        self._reverse(first, last)
        self.changes.append((first, last))

    def _reverse(self, first: int, last: int) -> None:
        """Turn the stretch between two positions around, or the rest if that is shorter; doing it again undoes it."""
        tour, position, length = self.tour, self.position, self.length
        inside = (last - first) % length + 1
        if 2 * inside > length:
            first, last, inside = (last + 1) % length, (first - 1) % length, length - inside
        if first <= last:
            turned = tour[first : last + 1]
            turned.reverse()
            tour[first : last + 1] = turned
            for index, point in enumerate(turned, first):
                position[point] = index
            return
        for _ in range(inside // 2):
            x, y = tour[first], tour[last]
            tour[first], tour[last] = y, x
            position[y], position[x] = first, last
            first = first + 1 if first + 1 < length else 0
            last = last - 1 if last else length - 1
