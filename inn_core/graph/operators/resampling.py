"""Taps of a resampled axis: which elements of the data make each element of the result, with which weights.

Coordinates are computed in float32, as the runtimes do that will run the artifact: which of two neighbours is
nearest can hang on the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Coordinates = NDArray[np.float32]
Positions = NDArray[np.int64]
Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Method:
    """How one node resamples: its attributes, with the defaults of its operator set."""

    mode: str
    coordinates: str
    nearest: str
    cubic_a: float
    excludes_outside: bool
    antialias: bool
    extrapolation: float


@dataclass(frozen=True)
class Stretch:
    """One axis to resample: sizes before and after, scale, and the region of interest as fractions."""

    axis: int
    size: int
    target: int
    scale: np.float32
    start: float
    end: float

    @property
    def is_exact(self) -> bool:
        """Whether the scale is the ratio of the sizes, and not one that was rounded down to whole elements."""
        return bool(self.scale == np.float32(self.target) / np.float32(self.size))


def source_coordinates(stretch: Stretch, method: Method) -> Coordinates:
    """Where in the data each output element lies, shape (target,)."""
    one, half = np.float32(1), np.float32(0.5)
    index = np.arange(stretch.target, dtype=np.float32)
    size, target = np.float32(stretch.size), np.float32(stretch.target)
    if method.coordinates == "asymmetric":
        return index / stretch.scale
    if method.coordinates == "align_corners":
        return index * (size - one) / (target - one) if stretch.target > 1 else np.zeros_like(index)
    if method.coordinates == "tf_crop_and_resize":
        start, end = np.float32(stretch.start), np.float32(stretch.end)
        if stretch.target > 1:
            return start * (size - one) + index * (end - start) * (size - one) / (target - one)
        return np.full_like(index, half * (start + end) * (size - one))
    if method.coordinates == "pytorch_half_pixel" and stretch.target == 1:
        return np.zeros_like(index)
    centred = (index + half) / stretch.scale
    if method.coordinates == "half_pixel_symmetric":
        centred = size / np.float32(2) * (one - target / (stretch.scale * size)) + centred
    return centred - half


def nearest_positions(places: Coordinates, stretch: Stretch, method: Method) -> Positions:
    """Position of the nearest element of the data for each output element, shape (target,)."""
    mode = method.nearest
    if mode == "floor":
        nearest = np.floor(places)
    elif mode == "ceil":
        nearest = np.ceil(places)
    elif mode == "round_prefer_floor":
        nearest = np.ceil(places - np.float32(0.5))
    else:
        nearest = np.floor(places + np.float32(0.5))
    return np.clip(nearest.astype(np.int64), 0, stretch.size - 1)


def taps(places: Coordinates, stretch: Stretch, method: Method) -> tuple[Positions, Weights]:
    """Positions and weights, each of shape (taps, target); weights of one output element sum to 1."""
    narrowing = min(float(stretch.scale), 1.0) if method.antialias else 1.0
    radius = math.ceil((1 if method.mode == "linear" else 2) / narrowing)
    floor = np.floor(places)
    offsets = np.arange(1 - radius, radius + 1)[:, None]
    distance = np.abs(offsets - (places - floor).astype(np.float64)) * narrowing
    weights = np.maximum(1 - distance, 0) if method.mode == "linear" else _cubic(distance, method.cubic_a)
    positions = floor.astype(np.int64) + offsets
    if method.excludes_outside:
        weights = np.where((positions >= 0) & (positions < stretch.size), weights, 0)
    if method.excludes_outside or method.antialias:
        weights = weights / weights.sum(0)
    return np.clip(positions, 0, stretch.size - 1), weights


def _cubic(distance: Weights, a: float) -> Weights:
    """Keys' cubic convolution kernel. Source: Keys 1981, equation 4."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
