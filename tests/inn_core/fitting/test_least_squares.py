"""Ridge least squares against numpy's own least squares on the stacked system."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inn_core.fitting.least_squares import NormalEquations

TOLERANCE = 2e-4  # products are taken in float32


def problem(rows: int = 400, inputs: int = 7, outputs: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, rows, inputs, generator=generator) + 3.0
    t = torch.randn(2, rows, outputs, generator=generator) - 5.0
    prior = torch.randn(2, outputs, inputs, generator=generator)
    return z, t, prior


def oracle(
    z: np.ndarray, t: np.ndarray, prior: np.ndarray, ridge: float, with_bias: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares on the rows and, below them, sqrt(penalty) x (W - prior)."""
    mean_z = z.mean(0) if with_bias else np.zeros(z.shape[1])
    mean_t = t.mean(0) if with_bias else np.zeros(t.shape[1])
    zc, tc = z - mean_z, t - mean_t
    penalty = ridge * np.square(zc).mean(0).mean() * len(z)
    system = np.vstack([zc, np.sqrt(penalty) * np.eye(z.shape[1])])
    right = np.vstack([tc, np.sqrt(penalty) * prior.T])
    weights = np.linalg.lstsq(system, right, rcond=None)[0].T
    return weights, mean_t - weights @ mean_z


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_solution_is_that_of_the_stacked_least_squares(ridge: float, with_bias: bool) -> None:
    z, t, prior = problem()
    equations = NormalEquations(2, z.shape[2], t.shape[2], device=torch.device("cpu"))
    for start in range(0, z.shape[1], 150):
        equations.add(z[:, start : start + 150], t[:, start : start + 150])
    weights, bias = equations.solve(prior, ridge=ridge, with_bias=with_bias)
    for block in range(2):
        expected, expected_bias = oracle(
            z[block].double().numpy(), t[block].double().numpy(), prior[block].numpy(), ridge, with_bias
        )
        assert np.abs(weights[block].numpy() - expected).max() < TOLERANCE
        if with_bias:
            assert bias is not None
            assert np.abs(bias[block].numpy() - expected_bias).max() < 10 * TOLERANCE
        else:
            assert bias is None


def test_a_huge_ridge_gives_the_prior() -> None:
    z, t, prior = problem()
    equations = NormalEquations(2, z.shape[2], t.shape[2], device=torch.device("cpu"))
    equations.add(z, t)
    weights, _ = equations.solve(prior, ridge=1e9, with_bias=True)
    assert (weights - prior).abs().max() < 1e-6


def test_dead_inputs_are_no_obstacle() -> None:
    z, t, prior = problem()
    z[:, :, 2] = 0.0
    z[:, :, 4] = z[:, :, 3]
    equations = NormalEquations(2, z.shape[2], t.shape[2], device=torch.device("cpu"))
    equations.add(z, t)
    weights, bias = equations.solve(prior, ridge=0.0, with_bias=True)
    assert torch.isfinite(weights).all()
    assert bias is not None
    fitted = z.double() @ weights.transpose(1, 2) + bias.unsqueeze(1)
    alive = [0, 1, 3, 5, 6]
    best = np.linalg.lstsq(
        np.hstack([z[0][:, alive].double().numpy(), np.ones((z.shape[1], 1))]), t[0].double().numpy(), rcond=None
    )
    residual = np.square((fitted[0] - t[0]).numpy()).sum(0)
    assert np.allclose(residual, best[1], rtol=1e-4)
