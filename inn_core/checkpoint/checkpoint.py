"""The checkpoint as data: template, weights, groups, orders, size paths and stored sizes of one network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inn_core.arrays import Array, FloatArray, IntArray
from inn_core.graph.cost import Unit
from inn_core.graph.structure import Sizes, Structure, Template

QUALITIES = ("refined", "instant", "trained", "uniform")
"""How a size is made.

`refined` fits every size to the calibration samples. `instant` reads none: it is a closed form from stored statistics,
or, where the network was trained in all sizes, the trained size. `trained` is the trained size. `uniform` is the
paper's plain integral network: kernels sampled at a uniform partition with a classical quadrature.
"""


class InconsistentCheckpointError(Exception):
    """Parts of a network contradict each other; the message says which. Callers translate it."""


@dataclass(frozen=True)
class InputStatistics:
    """How the inputs of one weight vary in an anchor network.

    Attributes:
        correlation: its lower triangle by rows, shape `(units * (units + 1) / 2,)`, in half precision.
        scale: standard deviations, shape `(units,)`.
        mean: shape `(units,)`.
    """

    correlation: Array
    scale: Array
    mean: Array


@dataclass(frozen=True)
class AnchorNetwork:
    """A refined network on the size path; the sizes between two of them are made from both without data.

    Attributes:
        sizes: of every group.
        weights: by name, mostly in half precision; empty at full size, whose weights are those of the checkpoint.
        inputs: statistics of the resizable inputs of dense nodes, by weight.
    """

    sizes: Sizes
    weights: Mapping[str, Array]
    inputs: Mapping[str, InputStatistics]


@dataclass(frozen=True)
class StoredMoments:
    """Mean and variance of the pre-activations of one node, float32, shape `(channels,)` each."""

    mean: Array
    variance: Array


@dataclass(frozen=True)
class MeasuredSize:
    """Sizes of every group, and the moments of the normalized nodes there, by weight."""

    sizes: Sizes
    moments: Mapping[str, StoredMoments]


@dataclass(frozen=True)
class TrainedSizes:
    """What the sizes of a trained network need beside its weights, which are those of the full size, folded.

    Attributes:
        sampling: how sizes are taken from the parameters, JSON members.
        scales, shifts: of every normalized node at full size, by weight, float32, shape `(channels,)`.
        paths: `unit ("params" | "macs") -> sizes on that size path` whose moments were measured, the full first.
        partitions: `group -> cells -> edges` of tuned partitions, shape `(cells + 1,)`.
    """

    sampling: Mapping[str, str]
    scales: Mapping[str, Array]
    shifts: Mapping[str, Array]
    paths: Mapping[Unit, tuple[MeasuredSize, ...]]
    partitions: Mapping[str, Mapping[int, Array]] = field(default_factory=dict)


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """One network in every size: what a `.inn` checkpoint holds.

    Attributes:
        name: matches `^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`.
        weights: full-size float weights by initializer name.
        orders: nested order of every group, a permutation, shape `(size,)`: size m keeps `sort(order[:m])`.
        paths: `unit ("params" | "macs") -> group index removed at each step`, from the full network to the smallest.
        curves: `group -> sensitivity`, predicted when the group alone has size m, shape `(size + 1,)`, index m.
        calibration: samples by graph input, samples first, in their smallest dtype; empty with `--statistics-only`.
        levels: values that the codes of calibration samples stand for, by graph input, shape `(1 or channels, 256)`.
        anchors: the full network and refined smaller ones, each inside the one before it; empty when none are kept.
        channel_permutations: `group -> permutation` that makes kernels smooth, shape `(size,)`; empty when not kept.
        trained: the sizes as trained; None when the network never was.
        unknown: further arrays of the file by name, which this release does not read and keeps.
        provenance: JSON object: source digest, tool versions, recipe, options of the import.
    """

    name: str
    template: Template
    weights: Mapping[str, Array]
    structure: Structure
    orders: Mapping[str, IntArray]
    paths: Mapping[str, NDArray[np.int32]]
    curves: Mapping[str, FloatArray]
    calibration: Mapping[str, Array] = field(default_factory=dict)
    levels: Mapping[str, Array] = field(default_factory=dict)
    anchors: tuple[AnchorNetwork, ...] = ()
    channel_permutations: Mapping[str, Array] = field(default_factory=dict)
    trained: TrainedSizes | None = None
    unknown: Mapping[str, Array] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def qualities(self) -> list[str]:
        """Qualities that this network can be exported in, the default first."""
        offered = {
            "refined": bool(self.calibration),
            "instant": self.trained is not None or bool(self.anchors),
            "trained": self.trained is not None,
            "uniform": all(group.name in self.channel_permutations for group in self.structure.groups),
        }
        return [quality for quality in QUALITIES if offered[quality]]

    def __repr__(self) -> str:
        """One line: arrays are for programs."""
        n_parameters = sum(int(array.size) for array in self.weights.values())
        n_groups, n_samples = len(self.structure.groups), len(next(iter(self.calibration.values()), ()))
        return (
            f"Checkpoint('{self.name}', {'imported' if self.trained is None else 'trained in its sizes'}, "
            f"{n_parameters:,} parameters, {n_groups} group{'' if n_groups == 1 else 's'}, {n_samples:,} samples, "
            f"qualities: {', '.join(self.qualities) or 'none'})"
        )
