"""A small VGG-11 for the 28x28 grey images of Fashion-MNIST: eight 3x3 convolutions in a row, no shortcuts.

The plan of layers is configuration A of Simonyan and Zisserman (arXiv 1409.1556). Against the paper every convolution
has BatchNorm, the network is narrower, a stem of stride 2 takes the place of the first pooling, and global average
pooling with one linear layer takes the place of the last pooling and the three large linear layers.

The network takes float32 pixels in [0, 1] (bytes divided by 255), shape `(batch, 1, 28, 28)`, and gives ten logits.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from inn_core.training.recipes.fashion_mnist import CLASS_NAMES

WIDTHS = (24, 48, 80, 80, 112, 112, 112, 112)
"""Channels of the eight convolutions; 0.53 M parameters."""

POOLED_BEFORE = frozenset({2, 4})
"""Convolutions with a 2x2 max pooling before them: 14x14, then 7x7, then 3x3."""


class Vgg(nn.Module):
    """VGG-11 for 28x28 grey images, freshly initialised.

    Args:
        widths: channels of each of the eight convolutions.
    """

    def __init__(self, *, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 1
        for index, out_channels in enumerate(widths):
            if index in POOLED_BEFORE:
                layers.append(nn.MaxPool2d(2))
            stride = 1 if index else 2
            layers.append(nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False))
            layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU())
            in_channels = out_channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(in_channels, len(CLASS_NAMES))

    def forward(self, image: Tensor) -> Tensor:
        """Logits, shape `(batch, 10)`, of pixels in [0, 1], shape `(batch, 1, 28, 28)`."""
        logits: Tensor = self.head(self.pool(self.features(image)).flatten(1))
        return logits
