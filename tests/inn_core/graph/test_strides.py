"""Strided 1x1 convolutions of few channels: outputs and gradients against sums in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inn_core.graph.operators.strides import NARROW, without_strides
from inn_core.graph.program import Program
from models.layers import PointwiseConv2d
from tests.inn_core.graph.tiny import model_of, node

OUT = 6


def operands(channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and gradient of the output, channels last."""
    generator = torch.Generator().manual_seed(channels)
    value = torch.randn(16, channels, 14, 14, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(OUT, channels, 1, 1, generator=generator)
    return value, weight, torch.randn(16, OUT, 7, 7, generator=generator).contiguous(memory_format=torch.channels_last)


def check(output: Tensor, value: Tensor, weight: Tensor, gradient: Tensor) -> None:
    """An output at strides 2, and what its gradient gives, are those of the sums that define a convolution."""
    output.backward(gradient)
    taken, kernel, slope = (
        tensor.detach().double() for tensor in (value[:, :, ::2, ::2], weight[:, :, 0, 0], gradient)
    )
    expected = torch.einsum("oi,nihw->nohw", kernel, taken)
    torch.testing.assert_close(output.detach().double(), expected, rtol=1e-4, atol=1e-4)
    assert weight.grad is not None
    expected = torch.einsum("nohw,nihw->oi", slope, taken)
    torch.testing.assert_close(weight.grad[:, :, 0, 0].double(), expected, rtol=1e-4, atol=1e-4)
    assert value.grad is not None
    expected = torch.zeros(value.shape, dtype=torch.float64)
    expected[:, :, ::2, ::2] = torch.einsum("oi,nohw->nihw", kernel, slope)
    torch.testing.assert_close(value.grad.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 7, 8, 15, 16, 17])
def test_a_convolution_of_a_graph_is_learned_right(channels: int) -> None:
    value, weight, gradient = operands(channels)
    model = model_of(
        [node("Conv", "x w", "y", kernel_shape=[1, 1], strides=[2, 2])],
        weights={"w": (OUT, channels, 1, 1)},
        inputs={"x": (channels, 14, 14)},
    )
    leaves = [value.requires_grad_(), weight.requires_grad_()]
    (output,) = Program(model).run({"w": leaves[1]}, {"x": leaves[0]}).values()
    check(output, value, weight, gradient)


@pytest.mark.parametrize("channels", [1, 3, 7, 8, 15, 16, 17])
def test_a_layer_is_learned_right(channels: int) -> None:
    value, weight, gradient = operands(channels)
    layer = PointwiseConv2d(channels, OUT, stride=2)
    layer.load_state_dict({"weight": weight})
    check(layer(value.requires_grad_()), value, layer.weight, gradient)


def test_a_layer_that_is_not_trained_is_a_strided_convolution() -> None:
    value, weight, _ = operands(3)
    layer = PointwiseConv2d(3, OUT, stride=2).eval()
    layer.load_state_dict({"weight": weight})
    assert torch.equal(layer(value), torch.nn.functional.conv2d(value, weight, stride=2))


@pytest.mark.parametrize(
    ("channels", "kernel", "strides", "learned", "expected"),
    [
        (NARROW - 1, 1, (2, 3), True, (1, 1)),
        (NARROW, 1, (2, 3), True, (2, 3)),
        (3, 1, (2, 3), False, (2, 3)),
        (3, 3, (2, 3), True, (2, 3)),
        (3, 1, (1, 1), True, (1, 1)),
    ],
)
def test_only_what_needs_it_takes_the_detour(
    channels: int, kernel: int, strides: tuple[int, int], learned: bool, expected: tuple[int, int]
) -> None:
    value = torch.zeros(2, channels, 9, 9)
    weight = torch.zeros(OUT, channels, kernel, kernel, requires_grad=learned)
    taken, found = without_strides(value, weight, strides)
    assert tuple(found) == expected
    assert taken.shape[2:] == ((5, 3) if expected != strides else (9, 9))
