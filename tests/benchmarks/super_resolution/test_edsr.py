"""The small EDSR: its size, that it starts as bicubic, and that height and width double."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from benchmarks.super_resolution.edsr import SmallEdsr


def test_parameter_count_is_that_of_the_architecture() -> None:
    def convolution(inputs: int, outputs: int) -> int:
        return 9 * inputs * outputs + outputs

    expected = convolution(3, 20) + (2 * 5 + 1) * convolution(20, 20) + convolution(20, 12)
    assert sum(parameter.numel() for parameter in SmallEdsr(width=20, blocks=5).parameters()) == expected


@pytest.mark.parametrize("shape", [(1, 3, 16, 21), (3, 3, 24, 24)])
def test_a_fresh_network_is_bicubic_interpolation(shape: tuple[int, ...]) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = SmallEdsr(width=8, blocks=2)(image)
    expected = functional.interpolate(image, scale_factor=2.0, mode="bicubic")
    assert torch.equal(found, expected)
    assert found.shape == (shape[0], 3, 2 * shape[2], 2 * shape[3])
