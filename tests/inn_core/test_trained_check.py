"""Trained sizes of a checkpoint that were forged or damaged are refused, before they are written and when read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inn_core.checkpoint import load_checkpoint, save_checkpoint
from inn_core.errors import InvalidCheckpointError
from inn_core.integral import IntegralNetwork
from inn_core.network import Array, Checkpoint
from inn_core.trained_check import trained_faults
from tests.inn_core.sized import small_residual, smoothed, with_kernels

Change = Callable[[dict[str, Array]], None]


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    """Kernels with a tuned partition, so that every kind of array is there."""
    network = with_kernels(smoothed(small_residual()))
    sampler = network.sampler
    group = next(iter(network.full_sizes))
    sampler.tuned = {group: [torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)]}  # type: ignore[assignment]
    network.measure_()
    return network.to_checkpoint()


def first(arrays: dict[str, Array], part: str) -> str:
    return next(name for name in arrays if name.startswith("trained/") and part in name)


def _drop(part: str) -> Change:
    def change(arrays: dict[str, Array]) -> None:
        del arrays[first(arrays, part)]

    return change


def _set(part: str, make: Callable[[Array], Array]) -> Change:
    def change(arrays: dict[str, Array]) -> None:
        name = first(arrays, part)
        arrays[name] = make(arrays[name])

    return change


def _stray(arrays: dict[str, Array]) -> None:
    arrays["trained/unknown"] = np.zeros(1, dtype=np.float32)


def _half_ordered(arrays: dict[str, Array]) -> None:
    del arrays[next(name for name in arrays if name.startswith("smooth/"))]


def _no_permutation(arrays: dict[str, Array]) -> None:
    name = next(name for name in arrays if name.startswith("smooth/"))
    arrays[name] = np.zeros_like(arrays[name])


CHANGES: dict[str, Change] = {
    "a mean is missing": _drop("params/1/mean/"),
    "a knot is missing": _drop("params/0/sizes"),
    "a scale is missing": _drop("scale/"),
    "a shift is cut": _set("shift/", lambda array: array[:-1]),
    "a mean is not finite": _set("macs/1/mean/", lambda array: np.full_like(array, np.nan)),
    "a variance is negative": _set("params/0/variance/", lambda array: array - 1e6),
    "a variance is of another type": _set("params/0/variance/", lambda array: array.astype(np.float64)),
    "sizes grow": _set("params/1/sizes", lambda array: array + 1000),
    "sizes are zero": _set("macs/1/sizes", np.zeros_like),
    "sizes have another shape": _set("macs/1/sizes", lambda array: array[:-1]),
    "edges fall": _set("partition/", lambda array: array[::-1].copy()),
    "edges end early": _set("partition/", lambda array: array * 0.5),
    "an array belongs to nothing": _stray,
    "a group lacks its smoothing order": _half_ordered,
    "a smoothing order is no permutation": _no_permutation,
}


def test_sound_sizes_have_no_faults_and_come_back(trained: Checkpoint, tmp_path: Path) -> None:
    assert list(trained_faults(trained)) == []
    save_checkpoint(trained, tmp_path / "trained.inn")
    found = load_checkpoint(tmp_path / "trained.inn")
    assert found.sampling == trained.sampling
    assert IntegralNetwork(found).sampler.describe() == dict(trained.sampling)


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_forged_array_is_refused(trained: Checkpoint, change: Change, tmp_path: Path) -> None:
    arrays = dict(trained.statistics)
    change(arrays)
    forged = replace(trained, statistics=arrays)
    assert list(trained_faults(forged))
    with pytest.raises(InvalidCheckpointError):
        save_checkpoint(forged, tmp_path / "forged.inn")
    assert not (tmp_path / "forged.inn").exists()


@pytest.mark.parametrize(
    "sampling",
    [{"kind": "magic"}, {"kind": "nested", "more": "x"}, {"kind": "kernel"}, {"kind": 3}, {"interpolation": "cubic"}],
)
def test_an_unknown_sampling_is_refused(trained: Checkpoint, sampling: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpointError, match="sampling"):
        save_checkpoint(replace(trained, sampling=sampling), tmp_path / "forged.inn")


def test_trained_arrays_without_a_sampling_are_refused(trained: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpointError, match="never trained"):
        save_checkpoint(replace(trained, sampling={}), tmp_path / "forged.inn")
