"""A small Network in Network for the 28x28 grey images of Fashion-MNIST: mlpconv blocks and global average pooling.

Each block is a spatial convolution followed by two 1x1 convolutions, a small perceptron at every position (Lin, Chen,
Yan, arXiv 1312.4400); the last 1x1 convolution gives one map for each class, whose mean is the logit. Against the
paper every convolution has BatchNorm, the network is narrower, the stem has stride 2 and dropout is left out.

The network takes float32 pixels in [0, 1] (bytes divided by 255), shape `(batch, 1, 28, 28)`, and gives ten logits.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from inn_core.training.recipes.fashion_mnist import CLASS_NAMES

WIDTHS = (48, 96, 160)
"""Channels of the three blocks; 0.26 M parameters."""

WINDOWS = (5, 3, 3)
"""Side of the spatial convolution of each block."""


class MlpConv(nn.Module):
    """A spatial convolution and two 1x1 convolutions, each with BatchNorm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, window: int, stride: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(in_channels, out_channels, window, stride=stride, padding=window // 2, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.mix1 = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.mix2 = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, in, height, width)` to `(batch, out, height / stride, width / stride)`."""
        x = self.norm1(self.spatial(x)).relu()
        x = self.norm2(self.mix1(x)).relu()
        mixed: Tensor = self.norm3(self.mix2(x)).relu()
        return mixed


class NetworkInNetwork(nn.Module):
    """Network in Network for 28x28 grey images, freshly initialised.

    Args:
        widths: channels of each block; every block halves height and width, the later ones by max pooling before it.
    """

    def __init__(self, *, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 1
        for block, (out_channels, window) in enumerate(zip(widths, WINDOWS, strict=True)):
            if block:
                layers.append(nn.MaxPool2d(2))
            layers.append(MlpConv(in_channels, out_channels, window, 1 if block else 2))
            in_channels = out_channels
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(in_channels, len(CLASS_NAMES), 1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits, shape `(batch, 10)`, of pixels in [0, 1], shape `(batch, 1, 28, 28)`."""
        logits: Tensor = self.pool(self.head(self.features(image))).flatten(1)
        return logits
