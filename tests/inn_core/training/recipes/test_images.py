"""Images in memory: the schedule of a run, pixels, and the precision that is faster."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from inn_core.training.recipes.images import Schedule, is_bfloat16_faster, to_pixels


def test_rate_climbs_to_its_peak_and_falls_to_zero() -> None:
    schedule = Schedule(peak_rate=0.4, warmup_share=0.25)
    assert schedule.rate(0.0) == 0.0
    assert schedule.rate(0.125) == pytest.approx(0.2)
    assert schedule.rate(0.25) == pytest.approx(0.4)
    assert schedule.rate(0.625) == pytest.approx(0.2)
    assert schedule.rate(1.0) == 0.0


def test_pixels_are_bytes_divided_by_255() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    pixels = to_pixels(images)
    assert pixels.shape == (1, 1, 16, 16)
    np.testing.assert_allclose(pixels.numpy().ravel() * 255, np.arange(256), rtol=1e-6)


def test_precision_is_measured_on_the_given_network() -> None:
    calls = 0

    def make() -> nn.Module:
        nonlocal calls
        calls += 1
        return nn.Conv2d(1, 4, 3)

    assert is_bfloat16_faster(make, torch.rand(8, 1, 8, 8), device=torch.device("cpu")) in (True, False)
    assert calls == 2
