"""Torch modules as `package.module:factory`, good and bad, for the tests of imports."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Small(nn.Module):
    """A convolution with BatchNorm, a residual branch and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits, shape `(batch, 5)`."""
        x = torch.relu(self.norm(self.stem(image)))
        x = x + torch.relu(self.branch(x))
        logits: torch.Tensor = self.head(torch.flatten(x.mean((2, 3)), 1))
        return logits


class Two(nn.Module):
    """Two inputs that meet."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 5)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Logits, shape `(batch, 5)`."""
        logits: torch.Tensor = self.head(torch.relu(self.left(first) + self.right(second)))
        return logits


class Unexportable(nn.Module):
    """Its graph depends on the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Something that no graph can hold."""
        return x * 2 if float(x.sum()) > 0 else x


def small() -> tuple[nn.Module, torch.Tensor]:
    """A module with running statistics that are not the initial ones, in training mode, and an example."""
    torch.manual_seed(0)
    module = Small()
    with torch.no_grad():
        for _ in range(5):
            module(torch.randn(16, 3, 8, 8) * 2 + 1)
    return module, torch.randn(2, 3, 8, 8)


def two() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Example inputs as a tuple."""
    torch.manual_seed(0)
    return Two(), (torch.randn(2, 4), torch.randn(2, 3))


def two_by_name() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Example inputs by argument name."""
    torch.manual_seed(0)
    return Two(), {"first": torch.randn(2, 4), "second": torch.randn(2, 3)}


def unexportable() -> tuple[nn.Module, torch.Tensor]:
    """Cannot be exported."""
    return Unexportable(), torch.randn(2, 4)


def only_a_module() -> Any:
    """Forgets the example inputs."""
    return Two()


def odd_example() -> Any:
    """Example inputs of no known kind."""
    return Two(), 7
