"""Everything that decides a training run of a network's sizes besides the network and the data; its rate and decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from inn_core.errors import InvalidTrainingError

RULES = ("sandwich", "random")
"""Which sizes a step trains; see `inn_core.training.step`."""


@dataclass(frozen=True)
class SizeTraining:
    """Everything that decides a run besides the network and the data.

    Attributes:
        epochs: passes over the data.
        optimizer: `sgd` (Nesterov, momentum 0.9) or `adam` (AdamW).
        peak_rate: learning rate at the top of the cycle.
        warmup_share: share of the steps in which the rate climbs linearly from zero; it then falls linearly to zero.
        weight_decay: of every parameter with more than one axis.
        rule: `sandwich`, or `random`: Algorithm 1 of the paper, one draw of `IntegralNetwork.sample_sizes` in a step.
        smaller_sizes: sizes in a step of the sandwich rule, beside the full one.
        task_share: of the task's loss in what those learn from; the rest is distillation.
        average_share: of the steps, over which the parameters that the run ends with are averaged; 0 keeps those of
            the last step. See `inn_core.training.averaging`.
        bfloat16: compute in bfloat16 where autocast does; parameters stay float32.
    """

    epochs: int = 8
    optimizer: str = "sgd"
    peak_rate: float = 0.1
    warmup_share: float = 0.1
    weight_decay: float = 5e-4
    rule: str = "sandwich"
    smaller_sizes: int = 3
    task_share: float = 0.0
    average_share: float = 0.0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adam"):
            raise InvalidTrainingError(f"optimizer {self.optimizer!r} is unknown; use sgd or adam")
        if self.rule not in RULES:
            raise InvalidTrainingError(f"rule {self.rule!r} is unknown; use {' or '.join(RULES)}")
        if self.epochs < 1 or self.smaller_sizes < 0:
            raise InvalidTrainingError(
                f"epochs is {self.epochs} and smaller_sizes {self.smaller_sizes}; give at least 1 and 0"
            )
        if not 0 <= self.warmup_share < 1 or not 0 <= self.task_share <= 1:
            raise InvalidTrainingError(
                f"warmup_share is {self.warmup_share} and task_share {self.task_share}; give shares from 0 to 1, and "
                "a warmup that ends"
            )
        if not 0 < self.peak_rate < math.inf or not 0 <= self.weight_decay < math.inf:
            raise InvalidTrainingError(
                f"peak_rate is {self.peak_rate} and weight_decay {self.weight_decay}; give a positive rate, and a "
                "decay that is not negative"
            )
        if not 0 <= self.average_share <= 1:
            raise InvalidTrainingError(f"average_share is {self.average_share}; give a share from 0 to 1")

    def rate(self, progress: float) -> float:
        """Learning rate when `progress` (0 to 1) of all steps are done."""
        return one_cycle_rate(progress, peak=self.peak_rate, warmup_share=self.warmup_share)


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
