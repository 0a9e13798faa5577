"""Smoothing order of every group: the permutation that makes the weights vary least from one channel to the next.

An integral kernel is interpolated between channels, so neighbours should be alike. The channels of a trained network
come in no order; permuting a whole group changes nothing that the network computes. The best permutation minimises the
total variation sum_i |W[s(i)] - W[s(i+1)]| over every weight that the group touches: an open travelling salesman path
between channels, with the L1 distance of all their weights.

A matrix of distances grows with the square of a group. Groups too large for one are cut along their principal direction
into stretches; each is ordered on its own, and every stretch is turned so that it goes on from the one before it.

Source: Solodskikh et al., "Integral Neural Networks", CVPR 2023, section 4.1 (conversion of discrete networks).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import InvalidInputError, InvalidWeightsError
from inn_core.graph.structure import Group, Structure
from inn_core.integral.tsp import hamiltonian_path
from inn_core.progress import Progress, no_progress

MOST_WORK = 2e11  # n * n * d of the distances of one group: at most a minute on one processor core
LARGEST_SEARCH = 4096  # channels that are ordered together: their distances and the search take about 1 GB
DIRECTION_COORDINATES = 64  # weights of a channel that the principal direction of a larger group is found from
CHUNK_ELEMENTS = 1 << 22  # numbers that are converted at a time

Order = NDArray[np.int64]


def smoothing_orders(checkpoint: Checkpoint, *, seed: int = 0, progress: Progress | None = None) -> dict[str, Order]:
    """The smoothing order of every group.

    Args:
        checkpoint: its `structure` and full-size `weights` are read.
        seed: decides the search and, in very large groups, the weights that distances are estimated from.
        progress: told `smoothing` and the finished share.

    Returns:
        `group name -> order`, a permutation of shape `(size,)`: channel `order[i]` comes to position i. Its total
        variation is never above that of the identity, which it is where nothing better is found. Equal checkpoints
        and seeds give equal orders.

    Not promised: that an order of more than `LARGEST_SEARCH` channels is as good as one search would make it.

    Raises:
        InvalidWeightsError: a weight that a group touches holds NaN or infinity.

    Source: Solodskikh et al., CVPR 2023, section 4.1; the solver is in `tour.py`.
    """
    report = progress or no_progress
    groups = checkpoint.structure.groups
    work = [float(group.size) ** 2 for group in groups]
    orders: dict[str, Order] = {}
    for index, group in enumerate(groups):
        report("smoothing", sum(work[:index]) / max(sum(work), 1.0))
        blocks = group_blocks(checkpoint.structure, checkpoint.weights, group)
        orders[group.name] = _smooth([block for _, block in blocks], group.size, seed)
    report("smoothing", 1.0)
    return orders


def group_blocks(structure: Structure, weights: Mapping[str, Array], group: Group) -> list[tuple[str, Array]]:
    """Every weight of a group's channels, channels first.

    Args:
        structure: says how the group's places are made up of it (`graph/axis.py`).
        weights: full-size weights by initializer name.
        group: one of `structure.groups`.

    Returns:
        `(weight name, block)` for every place and every segment of its axis that holds the group; a block has shape
        `(size, …)`, and is a view where numpy allows one. A weight that has the group on two axes is there twice:
        each axis varies on its own.

    Raises:
        InvalidWeightsError: a weight holds NaN or infinity.
    """
    full = structure.full_sizes()
    blocks: list[tuple[str, Array]] = []
    for name, place in group.places:
        weight = np.asarray(weights[name])
        _require_finite(name, weight)
        offset = 0
        for segment in structure.weights[name][place]:
            sizes = [full[factor] if isinstance(factor, str) else factor for factor in segment]
            length = int(np.prod(sizes, dtype=np.int64))
            before = (slice(None),) * place
            part = weight[(*before, slice(offset, offset + length))]
            part = part.reshape(*weight.shape[:place], *sizes, *weight.shape[place + 1 :])
            blocks.extend(
                (name, np.moveaxis(part, place + index, 0))
                for index, factor in enumerate(segment)
                if factor == group.name
            )
            offset += length
    return blocks


def smooth_order(
    rows: NDArray[Any],  # shape: (n, d)
    *,
    seed: int,
) -> Order:
    """An order of rows with a small total variation.

    Args:
        rows: one channel a row, shape `(n, d)`, any real dtype, finite; n and d may be 0.
        seed: decides the search and, where n * n * d is above `MOST_WORK`, the coordinates that distances are estimated
            from.

    Returns:
        A permutation, shape `(n,)`, whose total variation is below that of `0, 1, …`, or `0, 1, …` itself (as for
        n < 3 and for equal rows). Equal rows and seeds give an equal order.

    Raises:
        InvalidInputError: `rows` does not have two axes.
        InvalidWeightsError: a row holds NaN or infinity.

    Example:
        >>> smooth_order(np.array([[0.0], [2.0], [1.0], [3.0]]), seed=0)
        array([0, 2, 1, 3])
    """
    rows = _checked(rows)
    return _smooth([rows], rows.shape[0], seed)


def total_variation(
    rows: NDArray[Any],  # shape: (n, d)
    order: Order,
) -> float:
    """Sum over neighbours in the order of the L1 distance of their rows, sum_i |rows[order[i]] - rows[order[i + 1]]|.

    Args:
        rows: shape `(n, d)`, any real dtype, finite.
        order: a permutation of the rows, shape `(n,)`.

    Returns:
        Not negative; the same for the reversed order; 0 for n < 2. Summed in float64, so it may pass its largest number
        and be infinite where the rows come near it.

    Raises:
        InvalidInputError, InvalidWeightsError: see `smooth_order`.
    """
    rows = _checked(rows)
    scale = _scale([rows])
    with np.errstate(over="ignore"):
        return float(np.multiply(_variation([rows], order, scale), scale))


def _checked(rows: NDArray[Any]) -> Array:
    """The rows, if they are a finite matrix."""
    rows = np.asarray(rows)
    if rows.dtype.kind in "biu":
        rows = rows.astype(np.float64)
    if rows.ndim != 2:
        raise InvalidInputError(
            f"rows have shape {rows.shape}; one row for each channel is needed, shape (channels, weights): reshape them"
        )
    _require_finite("rows", rows)
    return rows


def _require_finite(name: str, weight: Array) -> None:
    if not np.isfinite(weight).all():
        raise InvalidWeightsError(name, "NaN" if np.isnan(weight).any() else "infinity")


def _smooth(blocks: Sequence[Array], n: int, seed: int) -> Order:
    """The order of channels with the given weights; the identity unless the one that was found is better."""
    identity = np.arange(n, dtype=np.int64)
    scale = _scale(blocks)
    if n < 3:
        return identity
    if n <= LARGEST_SEARCH:
        order = hamiltonian_path(_distances(blocks, n, scale, seed), seed=seed)
    else:
        order = _in_stretches(blocks, n, scale, seed)
    return order if _variation(blocks, order, scale) < _variation(blocks, identity, scale) else identity


def _in_stretches(blocks: Sequence[Array], n: int, scale: float, seed: int) -> Order:
    """An order of more channels than one search takes; memory follows the square of `LARGEST_SEARCH`, not that of n."""
    along = _principal_order(blocks, n, scale, seed)
    count = -(-n // LARGEST_SEARCH)
    stretches: list[Order] = []
    for part in np.array_split(along, count):
        own = [block[part] for block in blocks]
        found = part[hamiltonian_path(_distances(own, len(part), scale, seed, MOST_WORK / count), seed=seed)]
        if stretches:
            ends = [np.array([stretches[-1][-1], end]) for end in (found[0], found[-1])]
            first, last = (_variation(blocks, end, scale) for end in ends)
            found = found if first <= last else found[::-1]
        stretches.append(found)
    return np.concatenate(stretches)


def _principal_order(blocks: Sequence[Array], n: int, scale: float, seed: int) -> Order:
    """Channels by their place on the direction in which some of their weights vary most."""
    total = sum(block[0].size for block in blocks)
    parts = [part for part, _ in _columns(blocks, n, scale, seed, min(DIRECTION_COORDINATES / max(total, 1), 1.0))]
    if not parts:
        return np.arange(n, dtype=np.int64)
    columns = np.concatenate(parts, axis=1).astype(np.float64)
    _, directions = np.linalg.eigh(columns.T @ columns)
    return np.argsort(columns @ directions[:, -1], kind="stable").astype(np.int64)


def _scale(blocks: Sequence[Array]) -> float:
    """The largest magnitude (1 when all are zero): what is divided by it neither overflows nor vanishes in float32."""
    return max((float(np.abs(block).max()) for block in blocks if block.size), default=0.0) or 1.0


def _variation(blocks: Sequence[Array], order: Order, scale: float) -> float:
    """Total variation of weights divided by `scale`."""
    total = 0.0
    for block in blocks:
        step = max(CHUNK_ELEMENTS * block.shape[0] // max(block.size, 1), 2)
        for start in range(0, len(order) - 1, step - 1):
            part = block[order[start : start + step]].astype(np.float64) / scale
            total += float(np.abs(np.diff(part, axis=0)).sum())
    return total


def _distances(
    blocks: Sequence[Array], n: int, scale: float, seed: int, work: float | None = None
) -> NDArray[np.float64]:
    """L1 distances between channels, shape `(n, n)`, in units of `scale`; estimated where `work` asks for it.

    An estimate counts each coordinate that it reads for as many as it stands for. `work` is `MOST_WORK` when left out.
    """
    total = sum(block[0].size for block in blocks)
    share = min((MOST_WORK if work is None else work) / (float(n) ** 2 * max(total, 1)), 1.0)
    pairs = torch.zeros(n * (n - 1) // 2, dtype=torch.float64)
    for part, count in _columns(blocks, n, scale, seed, share):
        columns = torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32))
        pairs.add_(torch.nn.functional.pdist(columns, p=1.0), alpha=count)  # 17 times as fast as cdist
    distances = np.zeros((n, n))
    distances[np.triu_indices(n, 1)] = pairs.numpy()
    return distances + distances.T


def _columns(
    blocks: Sequence[Array], n: int, scale: float, seed: int, share: float
) -> Iterator[tuple[NDArray[np.float64], float]]:
    """Coordinates of all channels in units of `scale`, a chunk at a time, and for how many each stands.

    The same coordinates for all channels, drawn without repetition from each block in proportion to its size, at least
    one; their means are taken off, since float32 is for differences, not for what all channels share.
    """
    source = np.random.default_rng(seed)
    width = max(CHUNK_ELEMENTS // n, 1)
    for block in blocks:
        block = block[..., np.newaxis]  # a bias has one coordinate
        count = block[0].size
        if not count:
            continue
        drawn = max(int(share * count), 1)
        chosen = np.arange(count) if drawn == count else np.sort(source.choice(count, drawn, replace=False))
        for start in range(0, drawn, width):
            where = np.unravel_index(chosen[start : start + width], block.shape[1:])
            columns_of_all: tuple[Any, ...] = (slice(None), *where)
            part = block[columns_of_all].astype(np.float64) / scale
            yield part - part.mean(0), count / drawn
