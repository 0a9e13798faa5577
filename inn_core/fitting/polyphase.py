"""Phases of a transposed convolution: one of stride s is s convolutions an axis, each for every s-th output position.

Read as a matrix product, its input is interleaved with zeros, and of an output position's patch only the taps that do
not fall on them matter. Which ones they are depends on the position modulo the stride. Fitting phase by phase takes
s^axes times fewer unknowns at a time, and so s^(2 axes) times less work, for the same solution: the phases share
nothing but the bias.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from inn_core.graph.node import Node


@dataclass(frozen=True)
class Phase:
    """The output positions that see the same taps.

    Attributes:
        remainders: of the output coordinates modulo the strides; empty for a node that has one phase only.
        taps: of the window along each axis that these positions see; empty for all.
        columns: of the weight matrix for these taps; None for all.
    """

    remainders: tuple[int, ...]
    taps: tuple[slice, ...]
    columns: torch.Tensor | None


def output_phases(node: Node, weight_shape: torch.Size) -> tuple[Phase, ...]:
    """The phases of a node; one with all columns where the node is no transposed convolution with a stride.

    Args:
        node: a linear node.
        weight_shape: of its weight.
    """
    whole = (Phase((), (), None),)
    window = weight_shape[2:]
    strides = [int(s) for s in node.attributes.get("strides", [1] * len(window))]
    if node.operator != "ConvTranspose" or max(strides, default=1) == 1:
        return whole
    dilations = [int(d) for d in node.attributes.get("dilations", [1] * len(window))]
    pads = [int(p) for p in node.attributes.get("pads", [0] * (2 * len(window)))]
    groups = int(node.attributes.get("group", 1))
    channels = weight_shape[0] // groups
    numbers = torch.arange(channels * math.prod(window)).reshape(channels, *window)
    result = []
    for remainders in itertools.product(*(range(stride) for stride in strides)):
        taps = tuple(
            _taps(
                window[axis],
                strides[axis],
                dilations[axis],
                remainder - (window[axis] - 1) * dilations[axis] + pads[axis],
            )
            for axis, remainder in enumerate(remainders)
        )
        columns = numbers[(slice(None), *taps)].reshape(-1)
        if not len(columns):  # a kernel smaller than its stride leaves positions with the bias alone
            return whole
        result.append(Phase(remainders, taps, columns))
    return tuple(result)


def phase_positions(
    node: Node, phase: Phase, grid: Sequence[int], positions: torch.Tensor | None, device: torch.device
) -> torch.Tensor | None:
    """Those of the given flat output positions that belong to a phase.

    Args:
        node: the linear node.
        phase: one of its phases.
        grid: spatial shape of the output.
        positions: flat, or None for all.
        device: where the result goes.

    Returns:
        Flat positions, or None for all.
    """
    if phase.columns is None:
        return positions
    flat = torch.arange(math.prod(grid), device=device) if positions is None else positions
    left, belongs = flat, torch.ones_like(flat, dtype=torch.bool)
    strides = [int(s) for s in node.attributes["strides"]]
    for size, stride, remainder in zip(reversed(grid), reversed(strides), reversed(phase.remainders), strict=True):
        belongs &= left % size % stride == remainder
        left = left // size
    return flat[belongs]


def _taps(window: int, stride: int, dilation: int, first: int) -> slice:
    """Taps t for which `first + t dilation` is a multiple of the stride: where a patch meets no interleaved zero."""
    taps = [tap for tap in range(window) if (first + tap * dilation) % stride == 0]
    return slice(taps[0], taps[-1] + 1, stride // math.gcd(stride, dilation)) if taps else slice(0, 0)
