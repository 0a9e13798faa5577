"""Channels in the order of their filters: the function stays, the norms fall."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.networks.catalogue import NETWORKS, bare_checkpoint
from benchmarks.rivals.channels import ordered_by_norm
from inn_core.checkpoint.checkpoint import Checkpoint
from tests.benchmarks.conftest import lively

FUNCTION_TOLERANCE = 1e-4
"""Logits of about 1 from sums in another order."""


def folded_norms(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> np.ndarray:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (convolution.weight * scale[:, None, None, None]).flatten(1).norm(dim=1).detach().numpy()


def test_the_function_stays_and_inner_norms_fall(small: nn.Module, small_checkpoint: Checkpoint) -> None:
    images = torch.rand(5, 1, 28, 28)
    ordered = ordered_by_norm(small, small_checkpoint)
    with torch.inference_mode():
        torch.testing.assert_close(ordered(images), small(images), rtol=0, atol=FUNCTION_TOLERANCE)
    for block, original in zip(ordered.blocks, small.blocks, strict=True):
        norms = folded_norms(block.conv1, block.norm1)
        assert (np.diff(norms) <= 0).all()
        np.testing.assert_allclose(norms, np.sort(folded_norms(original.conv1, original.norm1))[::-1], rtol=1e-5)


def test_channels_on_a_residual_stream_are_ordered_by_all_that_write_them(
    small: nn.Module, small_checkpoint: Checkpoint
) -> None:
    ordered = ordered_by_norm(small, small_checkpoint)
    writers = [(ordered.stem, ordered.stem_norm), *((block.conv2, block.norm2) for block in ordered.blocks[:2])]
    assert (np.diff(sum(folded_norms(*writer) ** 2 for writer in writers)) <= 0).all()


def test_a_module_of_another_shape_is_refused(small_checkpoint: Checkpoint) -> None:
    other = NETWORKS["fashion_resnet"].make(widths=(4, 4, 4)).eval()
    with pytest.raises(ValueError, match=r"parameter 'stem\.weight' of the module is \(4, 1, 3, 3\)"):
        ordered_by_norm(other, small_checkpoint)


@pytest.mark.slow  # two exports; the default run meets both networks in the tests of the pipelines
@pytest.mark.parametrize("name", ["nin", "vgg"])
def test_every_width_of_the_other_networks_is_found(name: str) -> None:
    network = NETWORKS[name]
    torch.manual_seed(0)
    module = lively(network.make(widths=network.quick_widths))
    checkpoint = bare_checkpoint(module, name=name)
    n_convolutions = sum(isinstance(layer, nn.Conv2d) for layer in module.modules()) - (name == "nin")
    assert len(checkpoint.structure.groups) == n_convolutions
    assert all(group.minimum == 1 for group in checkpoint.structure.groups)
    images = torch.rand(5, 1, 28, 28)
    with torch.inference_mode():
        ordered = ordered_by_norm(module, checkpoint)(images)
        torch.testing.assert_close(ordered, module(images), rtol=0, atol=FUNCTION_TOLERANCE)
