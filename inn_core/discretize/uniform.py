"""Sizes that are sampled from kernels: trained ones, and the paper's uniform ones."""

from __future__ import annotations

from dataclasses import replace

import torch

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.structure import Array, Sizes
from inn_core.sized.codec import kernel_sampler, statistics_chunks
from inn_core.training.integral_network import IntegralNetwork


def trained_weights(checkpoint: Checkpoint, sizes: Sizes, *, device: torch.device) -> dict[str, Array]:
    """Weights of a trained size by name, normalization folded in; no samples are read."""
    network = IntegralNetwork(checkpoint).to(device)
    with torch.no_grad():
        return _arrays(checkpoint, network.discrete_weights(sizes))


def uniform_weights(checkpoint: Checkpoint, sizes: Sizes, *, device: torch.device) -> dict[str, Array]:
    """Weights of the paper's integral network at a uniform partition.

    Where the checkpoint keeps calibration samples, mean and deviation of every normalized pre-activation are those of
    the full network's; without samples the sampled weights are taken as they are.
    """
    sampler = kernel_sampler(checkpoint)
    sampler.tuned = {}
    imported = replace(checkpoint, sampling={})  # a trained network's weights, without its sizes
    network = IntegralNetwork(imported, sampler=sampler, normalize=bool(checkpoint.calibration)).to(device)
    with torch.no_grad():
        if not network.parts.nodes:
            return _arrays(checkpoint, network.discrete_weights(sizes))
        moments = network.moments(sizes, statistics_chunks(checkpoint, (), device))
        return _arrays(checkpoint, network.parts.folded(network.parts.sampled(network.sampler, sizes), moments))


def _arrays(checkpoint: Checkpoint, weights: dict[str, torch.Tensor]) -> dict[str, Array]:
    """In the dtypes of the checkpoint."""
    return {
        name: tensor.detach().cpu().contiguous().numpy().astype(checkpoint.weights[name].dtype, copy=False)
        for name, tensor in weights.items()
    }
