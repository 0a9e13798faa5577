"""Devices, chunks and the split between fitting and judging."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import DeviceError
from inn_core.fitting.runtime import (
    CHUNK_ELEMENTS,
    MAX_CHUNK,
    LoadedNetwork,
    choose_device,
    chunk_samples,
    run_outputs,
    split_blocks,
)
from inn_core.graph.analysis.template import Imported
from inn_core.graph.axis import fixed
from inn_core.graph.structure import Structure
from tests.inn_core.graph.tiny import run, with_weights
from tests.inn_core.trained_networks import CPU, engine_of, gaussian, integral, mlp


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return integral(mlp(), {"x": gaussian(300, 6)})


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(DeviceError, match="device 'abacus' is unknown"):
        choose_device("abacus")


def test_cuda_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="PyTorch finds no CUDA device; use auto or cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("side", [1, 100, 1000, 5000])
def test_the_largest_activation_of_a_chunk_is_bounded(side: int) -> None:
    axes = (fixed(1), fixed(3), fixed(side), fixed(side))
    count = chunk_samples(Structure((), {}, {"x": axes}, (), (), (), ()))
    assert 1 <= count <= MAX_CHUNK
    assert count == 1 or count * 3 * side * side <= CHUNK_ELEMENTS
    assert count == MAX_CHUNK or (count + 1) * 3 * side * side > CHUNK_ELEMENTS


@pytest.mark.parametrize("count", [8, 15, 16, 17, 100, 1024])
@pytest.mark.parametrize("held_out", [0.5, 0.25, 0.125])
def test_every_sample_is_fitted_or_held_out(count: int, held_out: float) -> None:
    fit, judge = split_blocks(count, held_out)
    np.testing.assert_array_equal(np.sort(np.concatenate([fit, judge])), np.arange(count))
    assert abs(len(judge) / count - held_out) <= held_out / 2
    assert len(judge) > 0


def test_whole_blocks_of_neighbours_are_held_out() -> None:
    _, judge = split_blocks(1600, 0.25)
    starts = judge[np.flatnonzero(np.diff(judge, prepend=-2) != 1)]
    assert len(starts) == 4
    assert len(judge) == 400


def test_chunks_are_all_samples_in_order(checkpoint: Checkpoint) -> None:
    loaded = engine_of(checkpoint)
    chunks = loaded.chunks(checkpoint.calibration)
    assert len(chunks) == -(-300 // loaded.chunk)
    np.testing.assert_array_equal(torch.cat([chunk["x"] for chunk in chunks]), checkpoint.calibration["x"])


def test_outputs_are_those_of_onnx_runtime(checkpoint: Checkpoint) -> None:
    loaded = engine_of(checkpoint)
    found = run_outputs(loaded.program, loaded.weights, loaded.chunks(checkpoint.calibration))["y"]
    imported = Imported(checkpoint.template, checkpoint.weights, checkpoint.structure)
    (expected,) = run(
        with_weights(imported, checkpoint.structure.full_sizes(), checkpoint.weights), checkpoint.calibration
    )
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_sized_engine_has_the_sizes_of_the_plan(checkpoint: Checkpoint) -> None:
    sizes = dict.fromkeys(checkpoint.structure.full_sizes(), 5)
    weights = {
        name: np.zeros(tuple(5 if axis[0][0] in sizes else int(axis[0][0]) for axis in axes), np.float32)
        for name, axes in checkpoint.structure.weights.items()
    }
    loaded = LoadedNetwork.build_sized(checkpoint, sizes, weights, CPU)
    assert loaded.structure.full_sizes() == sizes
    out = run_outputs(loaded.program, loaded.weights, loaded.chunks({"x": gaussian(4, 6)}))["y"]
    assert out.shape == (4, 5)
    assert not out.any()
