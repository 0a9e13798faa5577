"""The sizes of parameters: weights, moments and outputs of any size that a sampler takes from them.

Exports and training go through here alike, so that an artifact computes what was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.program import Program
from inn_core.graph.program_cache import SizedPrograms
from inn_core.graph.structure import Sizes
from inn_core.integral.kernel_sampler import KernelSampler
from inn_core.integral.nested_sampler import Sampler
from inn_core.sized.batch_norm import Moments, measure_moments
from inn_core.sized.between_knots import BetweenKnots
from inn_core.sized.codec import statistics_chunks
from inn_core.sized.kernel_parameters import KernelParameters
from inn_core.sized.size_statistics import SizeStatistics

Chunks = Sequence[Mapping[str, Tensor]]
"""Samples by graph input, in parts that fit memory."""


@dataclass(frozen=True)
class SampledSizes:
    """Every size of some parameters; nothing here is written to.

    Attributes:
        checkpoint: the network that the parameters are of.
        sampler: how a size is taken from them.
        parts: the parameters.
        programs: the graph at its sizes.
    """

    checkpoint: Checkpoint
    sampler: Sampler
    parts: KernelParameters
    programs: SizedPrograms

    @classmethod
    def of(cls, checkpoint: Checkpoint, sampler: Sampler, parts: KernelParameters) -> SampledSizes:
        """The sizes of parameters that were read from a checkpoint."""
        return cls(checkpoint, sampler, parts, SizedPrograms(checkpoint.template, checkpoint.structure))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next((parameter.device for parameter in self.parts.parameters()), torch.device("cpu"))

    def program(self, sizes: Sizes) -> Program:
        """The graph at a size, ready to run."""
        return self.programs.at(sizes, self.device)

    def moments(self, sizes: Sizes, chunks: Chunks) -> dict[str, Moments]:
        """Exact moments of the normalized nodes at a size, over samples in chunks by graph input."""
        sampled = self.parts.sampled(self.sampler, sizes)
        program = self.program(sizes)
        return measure_moments(program, self.parts.nodes, sampled.weights, sampled.scales, sampled.shifts, chunks)

    def moments_at(self, sizes: Sizes, statistics: SizeStatistics, between: BetweenKnots) -> Mapping[str, Moments]:
        """Moments of a size: those of a calibrated size, interpolated, or for kernels measured (`between_knots`)."""

        def interpolated() -> Mapping[str, Moments]:
            return statistics.at(sizes, self.parts.nodes, self.checkpoint.structure.weights, self.sampler)

        def measured() -> Mapping[str, Moments]:
            return self.moments(sizes, statistics_chunks(self.checkpoint, (), self.device))

        if not isinstance(self.sampler, KernelSampler) or statistics.is_measured(sizes):
            return interpolated()
        return between.moments(self.checkpoint, sizes, measure=measured, interpolate=interpolated)

    def weights(self, sizes: Sizes, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
        """Weights of the discrete model of a size by initializer name, normalization folded in; differentiable."""
        return self.parts.folded(self.parts.sampled(self.sampler, sizes), moments)

    @torch.no_grad()
    def outputs(self, sizes: Sizes, chunks: Chunks, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
        """Outputs of the discrete model of a size with the given moments, over samples in chunks."""
        weights = self.weights(sizes, moments)
        program = self.program(sizes)
        results = [program.run(weights, chunk) for chunk in chunks]
        return {name: torch.cat([result[name] for result in results]) for name in program.outputs}
