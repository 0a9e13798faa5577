"""What training runs share: the learning rate over a run, and which parameters are decayed."""

from __future__ import annotations

from typing import Any

from torch import nn


def one_cycle_rate(progress: float, *, peak: float, warmup_share: float) -> float:
    """Learning rate that climbs linearly from zero to its peak and then falls linearly to zero.

    Args:
        progress: finished share of all steps, 0 to 1.
        peak: the highest rate.
        warmup_share: share of the steps in which it climbs, 0 to below 1.
    """
    climb = progress / warmup_share if warmup_share else 1.0
    fall = (1.0 - progress) / (1.0 - warmup_share)
    return peak * max(min(climb, fall), 0.0)


def decayed_parameters(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: weights with more than one axis are decayed, all others are not."""
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in learned if parameter.ndim > 1]
    vectors = [parameter for parameter in learned if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
