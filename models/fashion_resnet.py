"""The demo network: a small residual network with BatchNorm for the 28x28 grey images of Fashion-MNIST.

Three stages of two basic blocks (He et al., arXiv 1512.03385) with 32, 64 and 128 channels after a stem of stride 2:
0.70 M parameters and 19 M multiply-accumulates, small enough to train on two cores in minutes.

The network takes float32 pixels in [0, 1] (bytes divided by 255), shape `(batch, 1, 28, 28)`, and gives ten logits.
There is no other normalization: the BatchNorm behind the first convolution takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from inn_core.training.recipes.fashion_mnist import CLASS_NAMES, IMAGE_SIZE
from models.layers import PointwiseConv2d

WIDTHS = (32, 64, 128)
BLOCKS_PER_STAGE = 2
WEIGHTS = Path(__file__).parent / "checkpoints" / "fashion_resnet.safetensors"
"""Trained weights that ship with the package; written by `python -m models.recipes.fashion_resnet`."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the shortcut is a 1x1 convolution where the shape changes.

    Args:
        in_channels, out_channels, stride: of the block.
        inner: channels between the convolutions; as many as come out when left out.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or out_channels
        self.conv1 = nn.Conv2d(in_channels, inner, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                PointwiseConv2d(in_channels, out_channels, stride=stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, in, height, width)` to `(batch, out, height / stride, width / stride)`."""
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class FashionResNet(nn.Module):
    """Residual network for 28x28 grey images, freshly initialised.

    Args:
        widths: channels of each stage; every stage but the first halves height and width.
    """

    def __init__(self, *, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, widths[0], 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        in_channels = widths[0]
        for stage, out_channels in enumerate(widths):
            for block in range(BLOCKS_PER_STAGE):
                blocks.append(BasicBlock(in_channels, out_channels, 2 if stage and not block else 1))
                in_channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(in_channels, len(CLASS_NAMES))

    def forward(self, image: Tensor) -> Tensor:
        """Logits, shape `(batch, 10)`, of pixels in [0, 1], shape `(batch, 1, 28, 28)`."""
        x = torch.relu(self.stem_norm(self.stem(image)))
        logits: Tensor = self.head(self.pool(self.blocks(x)).flatten(1))
        return logits


def factory() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The trained network, as `inn import models.fashion_resnet:factory` loads it.

    Returns:
        The module in eval mode with the shipped weights, and example inputs: two grey images, shape `(2, 1, 28, 28)`.

    Raises:
        FileNotFoundError: the weights are missing from the installation.
    """
    if not WEIGHTS.is_file():
        raise FileNotFoundError(
            f"trained weights '{WEIGHTS}' do not exist; train them with: python -m models.recipes.fashion_resnet"
        )
    module = FashionResNet()
    module.load_state_dict(load_file(WEIGHTS))
    return module.eval(), (torch.zeros(2, 1, IMAGE_SIZE, IMAGE_SIZE),)
