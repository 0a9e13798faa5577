"""Normalization statistics of every size of an integral network, measured at knots along its size paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.fitting.channel_statistics import output_kinds
from inn_core.fitting.divergence import mean_divergence
from inn_core.graph.program import Program
from inn_core.graph.structure import Sizes
from inn_core.integral.nested_sampler import Sampler
from inn_core.sized.batch_norm import Moments
from inn_core.sized.codec import STATISTICS_SAMPLES, statistics_chunks
from inn_core.sized.kernel_parameters import KernelParameters
from inn_core.sized.placement import place_knots, without_moments
from inn_core.sized.size_statistics import SizeStatistics

Chunks = Sequence[Mapping[str, Tensor]]
"""Samples by graph input, in parts that fit memory."""


class Measurable(Protocol):
    """What is measured: `IntegralNetwork`, whose attributes and methods these are."""

    checkpoint: Checkpoint
    sampler: Sampler
    parts: KernelParameters

    @property
    def full_sizes(self) -> Sizes: ...

    @property
    def smallest_sizes(self) -> Sizes: ...

    def program(self, sizes: Sizes | None = None) -> Program: ...

    def moments(self, sizes: Sizes, chunks: Chunks) -> dict[str, Moments]: ...

    def outputs(self, sizes: Sizes, chunks: Chunks, moments: Mapping[str, Moments]) -> dict[str, Tensor]: ...


def measure_statistics(network: Measurable, samples: Sequence[Tensor]) -> SizeStatistics:
    """Measure the statistics of every size.

    A thousand of the samples decide where the knots lie, all of them what is measured there.

    Args:
        network: any size of which can be run with any moments; nothing of it is written.
        samples: representative inputs in the order of the graph inputs, samples first; those of the checkpoint when
            there are none. More than fit memory are thinned evenly.

    Raises:
        StatisticsMissingError: there are no samples.
        InvalidInputError: there are not as many samples as graph inputs.
    """
    if not network.parts.nodes:
        return without_moments(network.checkpoint, network.smallest_sizes)
    device = next(network.parts.parameters()).device
    chunks = statistics_chunks(network.checkpoint, samples, device, most=STATISTICS_SAMPLES)
    judged = chunks[: max(1, len(chunks) // 2)]
    full = network.full_sizes
    kinds = output_kinds(network.program(), network.outputs(full, judged[:1], network.moments(full, judged[:1])))
    axes = network.checkpoint.structure.weights

    def difference(sizes: Sizes, measured: Mapping[str, Moments], estimated: Mapping[str, Moments]) -> float:
        exact = network.outputs(sizes, judged, measured)
        return mean_divergence(exact, network.outputs(sizes, judged, estimated), kinds)

    statistics = place_knots(
        network.checkpoint,
        smallest=network.smallest_sizes,
        measure=lambda sizes: network.moments(sizes, chunks),
        difference=difference,
        interpolate=lambda found, sizes: found.at(sizes, network.parts.nodes, axes, network.sampler),
    )
    if samples and len(samples[0]) > STATISTICS_SAMPLES:
        every = statistics_chunks(network.checkpoint, samples, device)
        statistics = statistics.measured_again(lambda sizes: network.moments(sizes, every))
    return statistics
