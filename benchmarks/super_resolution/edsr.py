"""A small network for x2 super-resolution after EDSR: residual blocks without BatchNorm, then depth to space.

The network adds what it learned to the bicubic interpolation of its input, so that it starts as bicubic and every size
of it has a decent picture to add to.

Source: Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", arXiv 1707.02921, with the skip
over the interpolated input of Kim et al., arXiv 1511.04587.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.super_resolution.upscaling import SCALE

WIDTH = 32
BLOCKS = 4


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a ReLU between them, beside an identity; nothing is normalized."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to the same shape."""
        changed: Tensor = x + self.conv2(torch.relu(self.conv1(x)))
        return changed


class SmallEdsr(nn.Module):
    """The network, freshly initialised.

    Args:
        width: channels of the residual stream and inside the blocks.
        blocks: how many residual blocks.
    """

    def __init__(self, *, width: int = WIDTH, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.body_end = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(width, 3 * SCALE**2, 3, padding=1)
        self.to_space = nn.PixelShuffle(SCALE)
        nn.init.zeros_(self.head.weight)  # starts as bicubic
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Map `(batch, 3, height, width)`, RGB in [0, 1], to `(batch, 3, 2 height, 2 width)`, RGB around [0, 1]."""
        features = self.stem(image)
        features = features + self.body_end(self.blocks(features))
        detail: Tensor = self.to_space(self.head(features))
        return detail + functional.interpolate(image, scale_factor=float(SCALE), mode="bicubic")
