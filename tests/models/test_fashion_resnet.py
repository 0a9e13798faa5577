"""The demo network: its size, its shape, and that the shipped weights know the shipped images."""

from __future__ import annotations

import numpy as np
import torch

from inn_core.training.recipes.fashion_mnist import demo_images
from models.fashion_resnet import FashionResNet, factory


def test_parameter_count_is_that_of_the_architecture() -> None:
    def convolution(size: int, inputs: int, outputs: int) -> int:
        return size * size * inputs * outputs + 2 * outputs  # weight, and scale and shift of the BatchNorm behind it

    expected = convolution(3, 1, 32) + 4 * convolution(3, 32, 32)
    for inputs, outputs in ((32, 64), (64, 128)):
        expected += convolution(3, inputs, outputs) + 3 * convolution(3, outputs, outputs)
        expected += convolution(1, inputs, outputs)
    expected += 128 * 10 + 10
    assert sum(parameter.numel() for parameter in FashionResNet().parameters()) == expected


def test_any_batch_gives_ten_logits_each() -> None:
    module = FashionResNet().eval()
    with torch.inference_mode():
        assert module(torch.rand(3, 1, 28, 28)).shape == (3, 10)
        assert module(torch.rand(1, 1, 28, 28)).shape == (1, 10)


def test_factory_gives_a_network_in_eval_mode_that_takes_its_example() -> None:
    module, example = factory()
    assert not module.training
    assert not any(layer.training for layer in module.modules())
    assert module(*example).shape == (2, 10)


def test_shipped_weights_know_the_shipped_images() -> None:
    module, _ = factory()
    images, labels = demo_images()
    with torch.inference_mode():
        logits = module(torch.from_numpy(images[:, None].astype(np.float32) / 255))
    # 92 % of 300 images, less two standard deviations of the share
    assert (logits.argmax(1).numpy() == labels).mean() >= 0.89
