"""Divergences against scipy and their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from inn_core.fitting.divergence import OutputKind, divergence, mean_divergence, output_kind


@pytest.mark.parametrize(
    ("shape", "operator", "kind"),
    [
        ((8, 10), "Gemm", OutputKind.LOGITS),
        ((8, 10), "Softmax", OutputKind.PROBABILITIES),
        ((8, 1), "Gemm", OutputKind.VALUES),
        ((8,), "Gemm", OutputKind.VALUES),
        ((8, 3, 16, 16), "Conv", OutputKind.VALUES),
        ((8, 3, 16, 16), "Softmax", OutputKind.VALUES),
    ],
)
def test_the_kind_follows_from_shape_and_operator(shape: tuple[int, ...], operator: str, kind: OutputKind) -> None:
    assert output_kind(shape, operator) is kind


def random_pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    return first, torch.randn(shape, generator=generator, dtype=torch.float64) * 3


def test_logits_have_the_kullback_leibler_divergence_of_scipy() -> None:
    full, sized = random_pair(20, 7)
    expected = rel_entr(softmax(full.numpy(), axis=1), softmax(sized.numpy(), axis=1)).sum(1)
    np.testing.assert_allclose(divergence(full, sized, OutputKind.LOGITS), expected, rtol=1e-9)


def test_probabilities_have_the_divergence_of_the_logits_behind_them() -> None:
    full, sized = random_pair(20, 7)
    found = divergence(full.softmax(1), sized.softmax(1), OutputKind.PROBABILITIES)
    np.testing.assert_allclose(found, divergence(full, sized, OutputKind.LOGITS), rtol=1e-9)


def test_a_probability_of_zero_is_finite() -> None:
    full = torch.tensor([[1.0, 0.0]])
    assert torch.isfinite(divergence(full, full.flip(1), OutputKind.PROBABILITIES)).all()
    assert float(divergence(full, full, OutputKind.PROBABILITIES)) == pytest.approx(0.0, abs=1e-6)


def test_values_have_the_squared_error_relative_to_their_power() -> None:
    full, sized = random_pair(6, 3, 4)
    expected = np.square((full - sized).numpy()).reshape(6, -1).mean(1) / np.square(full.numpy()).mean()
    np.testing.assert_allclose(divergence(full, sized, OutputKind.VALUES), expected, rtol=1e-9)


def test_a_shift_of_all_logits_is_no_difference() -> None:
    full, _ = random_pair(5, 4)
    assert float(divergence(full, full + 7, OutputKind.LOGITS).abs().max()) < 1e-12


def test_outputs_add_up() -> None:
    full, sized = random_pair(20, 7)
    kinds = {"a": OutputKind.LOGITS, "b": OutputKind.VALUES}
    found = mean_divergence({"a": full, "b": full}, {"a": sized, "b": sized}, kinds)
    expected = sum(float(divergence(full, sized, kind).mean()) for kind in kinds.values())
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_infinitely_far(bad: float) -> None:
    full, sized = random_pair(4, 3)
    sized[2, 1] = bad
    for kind in OutputKind:
        assert mean_divergence({"y": full}, {"y": sized}, {"y": kind}) == float("inf")
