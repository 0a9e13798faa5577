"""Samples to verify on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inn_core.checkpoint.calibration import compact
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.samples import CHUNK_SAMPLES, chunks, first_samples, fixed_batch, random_samples
from tests.inn_core.networks import SAMPLES, residual_network


def with_batch(batch: int) -> Checkpoint:
    network = residual_network()
    network.template.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return network


def test_the_first_samples_are_those_of_the_checkpoint(residual: Checkpoint) -> None:
    np.testing.assert_array_equal(first_samples(residual, 5)["x"], residual.calibration["x"][:5])
    assert len(first_samples(residual, 10**6)["x"]) == SAMPLES


def test_samples_kept_as_bytes_are_decoded(residual: Checkpoint) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8)).astype(np.float32) / 255
    codes, levels = compact(images)
    assert levels is not None
    kept = replace(residual, calibration={"x": codes}, levels={"x": levels})
    found = first_samples(kept, 4)["x"]
    np.testing.assert_array_equal(found, images[:4])
    assert found.dtype == np.float32


@pytest.mark.parametrize(("batch", "count", "expected"), [(3, 4, 6), (3, 3, 3), (64, 1, 64), (5, SAMPLES, 50)])
def test_whole_batches_are_taken_where_the_graph_fixes_them(batch: int, count: int, expected: int) -> None:
    network = with_batch(batch)
    found = first_samples(network, count)["x"]
    positions = np.arange(expected) % SAMPLES
    assert fixed_batch(network) == batch
    np.testing.assert_array_equal(found, network.calibration["x"][positions])
    assert len(random_samples(network, count)["x"]) == expected
    assert {len(chunk["x"]) for chunk in chunks(network, {"x": found})} == {batch}


def test_random_samples_are_always_the_same(residual: Checkpoint) -> None:
    first, second = random_samples(residual, 4)["x"], random_samples(residual, 4)["x"]
    np.testing.assert_array_equal(first, second)
    assert first.shape == (4, 3, 8, 8)
    assert first.dtype == np.float32
    assert np.std(first) > 0.5


def test_chunks_are_bounded_and_complete(residual: Checkpoint) -> None:
    samples = {"x": np.arange(2 * CHUNK_SAMPLES + 1)}
    parts = [chunk["x"] for chunk in chunks(residual, samples)]
    assert [len(part) for part in parts] == [CHUNK_SAMPLES, CHUNK_SAMPLES, 1]
    np.testing.assert_array_equal(np.concatenate(parts), samples["x"])
