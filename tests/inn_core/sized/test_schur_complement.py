"""Weights of removed channels move to the kept ones as the dense least-squares solution says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inn_core.checkpoint.checkpoint import InputStatistics
from inn_core.sized.schur_complement import RIDGE, read_moments, relative_selections

UNITS = 12
TOLERANCE = 0.02  # correlations are stored in half precision, 5e-4 each; the ridge lets a few of them add up
KEEP = np.array([0, 2, 3, 5, 8, 9, 11])
DROP = np.array([1, 4, 6, 7, 10])
CPU = torch.device("cpu")


@pytest.fixture
def samples() -> NDArray[np.float64]:
    random = np.random.default_rng(0)
    hidden = random.normal(size=(4000, 5))
    scales = np.geomspace(0.1, 10, UNITS)
    return (hidden @ random.normal(size=(5, UNITS)) + 0.3 * random.normal(size=(4000, UNITS)) + 1.5) * scales


def stored(samples: NDArray[np.float64]) -> InputStatistics:
    """As a checkpoint keeps them: packed lower triangle of the correlation, deviations, means."""
    correlation = np.asarray(np.corrcoef(samples.T))
    lower = np.concatenate([correlation[row, : row + 1] for row in range(UNITS)])
    return InputStatistics(
        lower.astype(np.float16), samples.std(0).astype(np.float32), samples.mean(0).astype(np.float32)
    )


@pytest.mark.parametrize("n_rows", [2, 40])  # fewer and more than the dropped channels
@pytest.mark.parametrize("with_bias", [True, False])
def test_moved_weights_solve_the_dense_ridge_problem(
    samples: NDArray[np.float64], n_rows: int, with_bias: bool
) -> None:
    moments = np.cov(samples.T, bias=True) if with_bias else samples.T @ samples / len(samples)
    scale = np.sqrt(moments.diagonal())
    moments = moments / np.outer(scale, scale)
    gram = moments[np.ix_(KEEP, KEEP)] + RIDGE * np.eye(len(KEEP))
    x = np.linalg.solve(gram, moments[np.ix_(KEEP, DROP)]).T * scale[DROP][:, None] / scale[KEEP]
    weights = np.random.default_rng(1).normal(size=(n_rows, len(DROP)))
    found = read_moments(stored(samples), KEEP, DROP, with_bias, CPU).transferred(
        torch.from_numpy(weights.astype(np.float32))
    )
    expected = weights @ x
    # In the units of the channels' own deviations, where the problem is well scaled.
    error = (found.numpy() - expected) * scale[KEEP]
    assert np.linalg.norm(error) < TOLERANCE * np.linalg.norm(expected * scale[KEEP])


def test_without_dropped_variance_in_common_nothing_moves() -> None:
    random = np.random.default_rng(2)
    lower = np.concatenate([np.eye(UNITS)[row, : row + 1] for row in range(UNITS)]).astype(np.float16)
    ones = np.ones(UNITS, dtype=np.float32)
    moments = read_moments(InputStatistics(lower, ones, ones), KEEP, DROP, True, CPU)
    rows = torch.from_numpy(random.normal(size=(3, len(DROP))).astype(np.float32))
    assert not moments.transferred(rows).any()


def test_a_duplicate_takes_over_the_weight_of_its_twin() -> None:
    correlation = np.eye(UNITS)
    correlation[2, 1] = correlation[1, 2] = 1.0  # channel 1 is dropped and equals twice the kept channel 2
    lower = np.concatenate([correlation[row, : row + 1] for row in range(UNITS)]).astype(np.float16)
    scale = np.ones(UNITS, dtype=np.float32)
    scale[1] = 2.0
    moments = read_moments(InputStatistics(lower, scale, np.zeros(UNITS, np.float32)), KEEP, DROP, True, CPU)
    rows = torch.zeros(1, len(DROP))
    rows[0, 0] = 3.0
    expected = np.zeros((1, len(KEEP)))
    expected[0, 1] = 3.0 * 2.0 / (1.0 + RIDGE)
    np.testing.assert_allclose(moments.transferred(rows).numpy(), expected, rtol=1e-5)


def test_selections_are_places_among_the_larger_plan() -> None:
    order = np.array([3, 0, 4, 1, 2])
    found = relative_selections({"g": order}, {"g": 4}, {"g": 2})  # keeps {0, 3} of {0, 1, 3, 4}
    np.testing.assert_array_equal(found["g"], [0, 2])
