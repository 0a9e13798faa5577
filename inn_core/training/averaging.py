"""The running average of a module's parameters over a training run: where the last steps circle, it is in the middle.

After step k the average moves towards the parameters by 1 / (1 + share * (k - 1)). So it covers about the last `share`
of the steps, however many there were, and forgets where the run began.

Source: Shamir and Zhang, ICML 2013, section 4 (polynomial-decay averaging, with eta = 1 / share - 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningAverage(nn.Module):
    """The average of what a module holds; it is saved and restored as a module is.

    Args:
        module: whose parameters; they stay its own.
        share: of the steps that the average covers, up to 1: the plain mean of all steps; 0 averages nothing, and the
            module keeps its last step.
        buffers: average the module's buffers of floating point, too, such as the running statistics of BatchNorm.
    """

    steps: Tensor

    def __init__(self, module: nn.Module, share: float, *, buffers: bool = False) -> None:
        super().__init__()
        self._share = share
        self._followed: list[Tensor] = list(module.parameters()) if share else []
        if share and buffers:
            self._followed += [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        self.values = nn.ParameterList(nn.Parameter(_precise(each), requires_grad=False) for each in self._followed)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add_(self) -> None:
        """Take in the module as it is after another step."""
        weight = 1.0 / (1.0 + self._share * int(self.steps))
        self.steps += 1
        for value, each in zip(self.values, self._followed, strict=True):
            value.lerp_(each.to(value.dtype), weight)

    @torch.no_grad()
    def apply_(self) -> None:
        """Replace what the module holds by the average; nothing changes before a step was taken in."""
        for value, each in zip(self.values, self._followed, strict=True):
            each.copy_(value)


def _precise(tensor: Tensor) -> Tensor:
    """A copy of at least single precision, in which small steps of an average are not rounded away."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
