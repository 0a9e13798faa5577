"""The Network in Network and the VGG-11: their size, their shape, and that widths are all that decides them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from benchmarks.networks import nin, vgg
from benchmarks.networks.nin import NetworkInNetwork
from benchmarks.networks.vgg import Vgg


def convolution(size: int, inputs: int, outputs: int) -> int:
    return size * size * inputs * outputs + 2 * outputs  # weight, and scale and shift of the BatchNorm behind it


def nin_parameters(widths: Sequence[int]) -> int:
    first, second, third = widths
    expected = convolution(5, 1, first) + convolution(3, first, second) + convolution(3, second, third)
    expected += sum(2 * convolution(1, width, width) for width in widths)
    return expected + third * 10 + 10


def vgg_parameters(widths: Sequence[int]) -> int:
    inputs = [1, *widths[:-1]]
    expected = sum(convolution(3, before, width) for before, width in zip(inputs, widths, strict=True))
    return expected + widths[-1] * 10 + 10


@pytest.mark.parametrize("widths", [nin.WIDTHS, (4, 6, 8)])
def test_network_in_network_has_the_parameters_of_its_widths(widths: tuple[int, ...]) -> None:
    found = sum(parameter.numel() for parameter in NetworkInNetwork(widths=widths).parameters())
    assert found == nin_parameters(widths)


@pytest.mark.parametrize("widths", [vgg.WIDTHS, (3, 4, 5, 6, 7, 8, 9, 10)])
def test_vgg_has_the_parameters_of_its_widths(widths: tuple[int, ...]) -> None:
    assert sum(parameter.numel() for parameter in Vgg(widths=widths).parameters()) == vgg_parameters(widths)


@pytest.mark.parametrize("make", [NetworkInNetwork, Vgg])
def test_any_batch_gives_ten_logits_each(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = make().eval()
    images = torch.rand(3, 1, 28, 28)
    with torch.inference_mode():
        logits = module(images)
        assert logits.shape == (3, 10)
        torch.testing.assert_close(module(images[:1]), logits[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [NetworkInNetwork, Vgg])
def test_every_parameter_is_reached_by_gradients(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = make()
    torch.autograd.backward(module(torch.rand(8, 1, 28, 28)).square().mean())
    assert [name for name, parameter in module.named_parameters() if not parameter.grad.abs().sum() > 0] == []
