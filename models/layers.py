"""Layers that the networks of this package share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from inn_core.graph.operators.strides import without_strides


class PointwiseConv2d(nn.Conv2d):
    """A strided 1x1 convolution that can be trained at any width on any processor.

    Args:
        in_channels, out_channels: of the layer.
        stride: of both axes.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, in, height, width)` to `(batch, out, height / stride, width / stride)`."""
        if not self.training:
            return super().forward(x)
        strides = [int(step) for step in self.stride]
        value, strides = without_strides(x, self.weight, strides)
        return functional.conv2d(value, self.weight, self.bias, strides)
