"""The checkpoint as data: template, weights, groups, orders, statistics and size paths of one network in every size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inn_core.arrays import Array
from inn_core.graph.structure import Structure, Template


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """One network in every size: what a `.inn` checkpoint holds.

    Attributes:
        name: matches `^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`.
        weights: full-size float weights by initializer name.
        orders: nested order of every group, a permutation, shape `(size,)`: size m keeps `sort(order[:m])`.
        paths: `unit ("params" | "macs") -> group index removed at each step`, from the full network to the smallest.
        curves: `group -> damage` predicted when the group alone has size m, shape `(size + 1,)`, index m.
        statistics: arrays for `instant`, by name.
        calibration: samples by graph input, samples first, in their smallest dtype; empty with `--statistics-only`.
        sampling: how sizes are taken from trained parameters, JSON members (`sampler.py`); empty when never trained.
        provenance: JSON object: source digest, tool versions, recipe, options of the import.
    """

    name: str
    template: Template
    weights: Mapping[str, Array]
    structure: Structure
    orders: Mapping[str, NDArray[np.int64]]
    paths: Mapping[str, NDArray[np.int32]]
    curves: Mapping[str, NDArray[np.float64]]
    statistics: Mapping[str, Array] = field(default_factory=dict)
    calibration: Mapping[str, Array] = field(default_factory=dict)
    sampling: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line: arrays are for programs."""
        n_parameters = sum(int(array.size) for array in self.weights.values())
        n_groups, n_samples = len(self.structure.groups), len(next(iter(self.calibration.values()), ()))
        kind = "trained in its sizes" if self.sampling else "imported"
        return (
            f"Checkpoint('{self.name}', {kind}, {n_parameters:,} parameters, "
            f"{n_groups} group{'' if n_groups == 1 else 's'}, {n_samples:,} samples)"
        )
