"""Sizes that are sampled from stored parameters: trained ones, and the uniform ones of the paper."""

from __future__ import annotations

from dataclasses import replace

import torch

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.structure import Sizes
from inn_core.integral.kernel import KernelSampling
from inn_core.sized.between_knots import BetweenKnots
from inn_core.sized.codec import kernel_sampler, read_parameters, sampler_of, statistics_chunks
from inn_core.sized.sampled_sizes import SampledSizes


@torch.no_grad()
def trained_weights(checkpoint: Checkpoint, sizes: Sizes, *, device: torch.device) -> dict[str, Array]:
    """Weights of a trained size by name, normalization folded in.

    Networks trained with nested sizes select channels, and no samples are read; those trained as kernels are sampled,
    and away from their calibrated sizes the statistics are measured on the samples of the checkpoint.
    """
    parts, statistics = read_parameters(checkpoint, normalize=True)
    sized = SampledSizes.of(checkpoint, sampler_of(checkpoint), parts.to(device))
    moments = sized.moments_at(sizes, statistics, BetweenKnots()) if parts.nodes and statistics else {}
    return _arrays(checkpoint, sized.weights(sizes, moments))


@torch.no_grad()
def uniform_weights(
    checkpoint: Checkpoint, sizes: Sizes, *, device: torch.device, sampling: KernelSampling | None = None
) -> dict[str, Array]:
    """Weights of the paper's integral network at a uniform partition: cubic and Riemann's unless `sampling` differs.

    Where the checkpoint keeps calibration samples, mean and deviation of every normalized pre-activation are those of
    the full network's; without samples the sampled weights are taken as they are.
    """
    sampler = kernel_sampler(checkpoint, sampling=sampling)
    sampler.tuned = {}
    imported = replace(checkpoint, trained=None)  # a trained network's weights, without its sizes
    parts, _ = read_parameters(imported, normalize=bool(checkpoint.calibration))
    sized = SampledSizes.of(imported, sampler, parts.to(device))
    moments = sized.moments(sizes, statistics_chunks(imported, (), device)) if parts.nodes else {}
    return _arrays(checkpoint, sized.weights(sizes, moments))


def _arrays(checkpoint: Checkpoint, weights: dict[str, torch.Tensor]) -> dict[str, Array]:
    """In the dtypes of the checkpoint."""
    return {
        name: tensor.detach().cpu().contiguous().numpy().astype(checkpoint.weights[name].dtype, copy=False)
        for name, tensor in weights.items()
    }
