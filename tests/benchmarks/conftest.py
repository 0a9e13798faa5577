"""A small residual network with lively statistics, and its import, made once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.pipelines.networks import bare_checkpoint
from inn_core.network import Checkpoint
from models.fashion_resnet import FashionResNet

SMALL_WIDTHS = (8, 8, 12)


def lively(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """The module in eval mode, with every BatchNorm far from the identity."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (layer.bias.data, layer.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return module.eval()


@pytest.fixture(scope="session")
def small() -> nn.Module:
    """Not to be changed."""
    torch.manual_seed(0)
    return lively(FashionResNet(widths=SMALL_WIDTHS))


@pytest.fixture(scope="session")
def small_checkpoint(small: nn.Module) -> Checkpoint:
    """The import of `small`."""
    return bare_checkpoint(small, name="small")
