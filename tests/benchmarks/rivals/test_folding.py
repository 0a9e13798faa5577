"""Folding: equal channels fold without loss, and repaired statistics are those of the clusters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.rivals.folding import fold, folded_outputs, match_statistics, uniform_sizes
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.axis import axis_groups
from inn_core.graph.cost import CostModel
from inn_core.graph.program import Program
from inn_core.graph.resized import resize_template

LOGIT_TOLERANCE = 1e-4


@pytest.fixture
def twice(small_checkpoint: Checkpoint) -> Checkpoint:
    """A network in which the second half of every group's channels repeats the first: filters and biases are equal."""
    weights = {}
    for name, axes in small_checkpoint.structure.weights.items():
        weight = small_checkpoint.weights[name].copy()
        if axis_groups(axes[0]):
            half = len(weight) // 2
            weight[half:] = weight[:half]
        weights[name] = weight
    return replace(small_checkpoint, weights=weights)


def full_outputs(checkpoint: Checkpoint, images: torch.Tensor) -> torch.Tensor:
    weights = {name: torch.from_numpy(np.array(array)) for name, array in checkpoint.weights.items()}
    with torch.inference_mode():
        return Program(checkpoint.template.model).run(weights, {"image": images})["logits"]


def halved(checkpoint: Checkpoint) -> dict[str, int]:
    return {group.name: group.size // 2 for group in checkpoint.structure.groups}


def test_equal_channels_fold_without_loss(twice: Checkpoint) -> None:
    images = torch.rand(6, 1, 28, 28)
    folded = fold(twice, halved(twice))
    for group in twice.structure.groups:
        labels = folded.clusters[group.name]
        assert np.array_equal(labels[: group.size // 2], labels[group.size // 2 :])
    found = folded_outputs(twice, folded, images)
    torch.testing.assert_close(found, full_outputs(twice, images), rtol=0, atol=LOGIT_TOLERANCE)


def test_all_channels_give_the_network_back(small: nn.Module, small_checkpoint: Checkpoint) -> None:
    images = torch.rand(6, 1, 28, 28)
    folded = fold(small_checkpoint, small_checkpoint.structure.full_sizes())
    with torch.inference_mode():
        found = folded_outputs(small_checkpoint, folded, images, batch_images=4)
        torch.testing.assert_close(found, small(images), rtol=0, atol=LOGIT_TOLERANCE)


def test_weights_of_an_inner_group_are_cluster_means_and_sums(small_checkpoint: Checkpoint) -> None:
    sizes = {**small_checkpoint.structure.full_sizes(), "blocks.0.conv1": 3}
    folded = fold(small_checkpoint, sizes)
    labels = folded.clusters["blocks.0.conv1"]
    weights = small_checkpoint.weights
    for cluster in range(3):
        members = labels == cluster
        assert members.any()
        for name in ("blocks.0.conv1.weight", "blocks.0.conv1.weight_bias"):
            np.testing.assert_allclose(
                folded.weights[name][cluster].numpy(), weights[name][members].mean(0), rtol=1e-5, atol=1e-6
            )
        np.testing.assert_allclose(
            folded.weights["blocks.0.conv2.weight"][:, cluster].numpy(),
            weights["blocks.0.conv2.weight"][:, members].sum(1),
            rtol=1e-5,
            atol=1e-6,
        )


def test_repaired_channels_have_the_moments_of_their_clusters(small_checkpoint: Checkpoint) -> None:
    network = small_checkpoint
    images = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    sizes = halved(network)
    matched = match_statistics(network, fold(network, sizes), images)
    full = Program(network.template.model)
    sized = Program(resize_template(network.template, network.structure, sizes))
    names = {node.outputs[0]: node.inputs[1] for node in full.nodes if node.operator == "Conv"}
    full_weights = {name: torch.from_numpy(np.array(array)) for name, array in network.weights.items()}
    with torch.inference_mode():
        expected = full.run(full_weights, {"image": images}, keep=names)
        found = sized.run(matched.weights, {"image": images}, keep=names)
    for value, weight in names.items():
        ((group,),) = network.structure.weights[weight][0]
        labels = matched.clusters[group]
        for moment in (np.mean, np.std):
            wanted = moment(expected[value].numpy(), axis=(0, 2, 3))
            merged = [wanted[labels == cluster].mean() for cluster in range(sizes[group])]
            np.testing.assert_allclose(
                moment(found[value].numpy(), axis=(0, 2, 3)), merged, rtol=1e-3, atol=1e-4, err_msg=weight
            )


def test_repair_leaves_a_perfect_fold_alone(twice: Checkpoint) -> None:
    images = torch.rand(32, 1, 28, 28)
    matched = match_statistics(twice, fold(twice, halved(twice)), images)
    found = folded_outputs(twice, matched, images)
    torch.testing.assert_close(found, full_outputs(twice, images), rtol=0, atol=10 * LOGIT_TOLERANCE)


def test_uniform_sizes_are_within_the_target(small_checkpoint: Checkpoint) -> None:
    cost = CostModel.of(small_checkpoint.template, small_checkpoint.structure)
    full = int(cost.evaluate("params", cost.full()[None])[0])
    sizes = uniform_sizes(small_checkpoint, full // 3)
    assert 0.9 * full / 3 < cost.evaluate("params", cost.to_row(sizes))[0] <= full // 3
