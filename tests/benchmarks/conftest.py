"""A small residual network with lively statistics, and its import, made once; equal networks are exported once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.networks import catalogue as networks
from benchmarks.networks.catalogue import bare_checkpoint
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.files import file_digest
from models.fashion_resnet import FashionResNet
from models.files import write_weights

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


@pytest.fixture(scope="session", autouse=True)
def exports_made_once() -> Iterator[None]:
    """PyTorch's exporter takes most of the time of a quick pipeline, and many of them train the very same network."""
    known: dict[tuple[str, str], bytes] = {}
    write_onnx = networks.write_onnx

    def write_once(module: nn.Module, path: Path) -> None:
        weights = path.with_suffix(".safetensors")
        write_weights(module, weights)
        key = repr(module), file_digest(weights)
        if key not in known:
            write_onnx(module, path)
            known[key] = path.read_bytes()
        path.write_bytes(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "write_onnx", write_once)
        yield


@pytest.fixture(scope="session")
def small() -> nn.Module:
    """Not to be changed."""
    torch.manual_seed(0)
    return lively(FashionResNet(widths=SMALL_WIDTHS))


@pytest.fixture(scope="session")
def small_checkpoint(small: nn.Module) -> Checkpoint:
    """The import of `small`."""
    return bare_checkpoint(small, name="small")
