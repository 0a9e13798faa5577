"""Normalization statistics of every size of an integral network, measured at knots along its size paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from inn_core.arrays import Array
from inn_core.errors import InvalidInputError, InvalidTypeError
from inn_core.fitting.channel_statistics import output_kinds
from inn_core.fitting.divergence import mean_divergence
from inn_core.graph.structure import Sizes
from inn_core.sized.batch_norm import Moments
from inn_core.sized.codec import STATISTICS_SAMPLES, statistics_chunks
from inn_core.sized.placement import place_knots, without_moments
from inn_core.sized.sampled_sizes import SampledSizes
from inn_core.sized.size_statistics import SizeStatistics

Samples: TypeAlias = "Tensor | Array | Mapping[str, Tensor | Array]"


def measure_statistics(sized: SampledSizes, smallest: Sizes, samples: Sequence[Samples]) -> SizeStatistics:
    """Measure the statistics of every size.

    A thousand of the samples decide where the knots lie, all of them what is measured there.

    Args:
        sized: the sizes to measure.
        smallest: the smallest plan that is to have statistics.
        samples: representative inputs in the order of the graph inputs or in one mapping by their names, samples first;
            those of the checkpoint when there are none. More than fit memory are thinned evenly.

    Raises:
        StatisticsMissingError: there are no samples.
        InvalidInputError, InvalidTypeError: they are not one tensor or array for each graph input.
    """
    checkpoint = sized.checkpoint
    if not sized.parts.nodes:
        return without_moments(checkpoint, smallest)
    device = sized.device
    given = _in_order(samples, [value.name for value in checkpoint.template.model.graph.input])
    chunks = statistics_chunks(checkpoint, given, device, most=STATISTICS_SAMPLES)
    judged = chunks[: max(1, len(chunks) // 2)]
    full = checkpoint.structure.full_sizes()
    kinds = output_kinds(sized.program(full), sized.outputs(full, judged[:1], sized.moments(full, judged[:1])))
    axes = checkpoint.structure.weights

    def difference(sizes: Sizes, measured: Mapping[str, Moments], estimated: Mapping[str, Moments]) -> float:
        exact = sized.outputs(sizes, judged, measured)
        return mean_divergence(exact, sized.outputs(sizes, judged, estimated), kinds)

    statistics = place_knots(
        checkpoint,
        smallest=smallest,
        measure=lambda sizes: sized.moments(sizes, chunks),
        difference=difference,
        interpolate=lambda found, sizes: found.at(sizes, sized.parts.nodes, axes, sized.sampler),
    )
    if given and len(given[0]) > STATISTICS_SAMPLES:
        every = statistics_chunks(checkpoint, given, device)
        statistics = statistics.measured_again(lambda sizes: sized.moments(sizes, every))
    return statistics


def _in_order(samples: Sequence[Samples], inputs: Sequence[str]) -> list[Tensor]:
    """Samples as tensors, one for each graph input."""
    if len(samples) == 1 and isinstance(samples[0], Mapping):
        named = samples[0]
        missing = [name for name in inputs if name not in named]
        if missing:
            raise InvalidInputError(f"samples of input '{missing[0]}' are missing; found: {', '.join(named)}")
        samples = [named[name] for name in inputs]
    for each in samples:
        if not isinstance(each, Tensor | np.ndarray):
            raise InvalidTypeError("samples", each, f"one tensor or array for each of: {', '.join(inputs)}")
    return [torch.as_tensor(each) for each in samples]
