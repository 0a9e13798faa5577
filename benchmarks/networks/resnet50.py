"""A ResNet-50-shaped network with seeded random weights: the size of work of a real one, nothing to download.

Speed and memory of an export depend on shapes alone, so the weights are random; normalization statistics are those of
one forward pass, which keeps the activations of every layer near unit variance, as training does.

Source: He, Zhang, Ren, Sun 2015 (arXiv 1512.03385), table 1; the stride sits on the 3x3 convolution, as is usual today.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

IMAGE_SIZE = 224
CLASSES = 1000
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, inner channels
EXPANSION = 4  # outer over inner channels of a block
STEM_CHANNELS = 64
COARSE = 14  # pixels a side of the noise that images are enlarged from
SEED = 0


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, inner: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, in, height, width)` to `(batch, out, height / stride, width / stride)`."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet50(nn.Module):
    """The network, freshly initialised: 25.6 M parameters at full width.

    Args:
        width: factor of all channels but those of image and classes, above 0; parameters go with its square.
        stages: blocks and inner channels of each stage; all but the first halve height and width.
    """

    def __init__(self, *, width: float = 1.0, stages: tuple[tuple[int, int], ...] = STAGES) -> None:
        super().__init__()
        channels = max(1, round(width * STEM_CHANNELS))
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks: list[nn.Module] = []
        for stage, (count, full_inner) in enumerate(stages):
            inner, outer = max(1, round(width * full_inner)), max(1, round(width * EXPANSION * full_inner))
            for block in range(count):
                blocks.append(Bottleneck(channels, inner, outer, 2 if stage and not block else 1))
                channels = outer
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Logits, shape `(batch, 1000)`, of images of shape `(batch, 3, height, width)`."""
        logits: Tensor = self.head(self.pool(self.blocks(self.stem(image))).flatten(1))
        return logits


def make_network(*, width: float = 1.0, stages: tuple[tuple[int, int], ...] = STAGES) -> ResNet50:
    """The network in eval mode with seeded random weights and the normalization statistics of eight images."""
    torch.manual_seed(SEED)
    network = ResNet50(width=width, stages=stages)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for norm in norms:
        norm.momentum = 1.0  # the statistics of the next pass replace those before
    with torch.no_grad():
        network.train()(torch.from_numpy(make_images(8)))
    return network.eval()


def make_images(count: int, *, size: int = IMAGE_SIZE, seed: int = SEED) -> NDArray[np.float32]:
    """Smooth random images that came from bytes and were normalized, as real ones are.

    Args:
        count: at least 1.
        size: pixels a side.
        seed: equal seeds give equal images.

    Returns:
        Shape `(count, 3, size, size)`; 256 different values, about -2 to 2.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, COARSE, COARSE, generator=generator)
    smooth = nn.functional.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False)
    pixels = (smooth.mul(40).add(128)).clamp(0, 255).round()
    return ((pixels / 255 - 0.5) / 0.25).numpy()


def count_folded_parameters(network: nn.Module) -> int:
    """Parameters once every normalization is folded into its convolution: weights and biases."""
    count = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            count += module.weight.numel() + module.weight.shape[0]
    return count


def factory() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network and two example images, as `inn import benchmarks.networks.resnet50:factory` loads it."""
    return make_network(), (torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE),)
