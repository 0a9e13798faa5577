"""The way from a checkpoint to the parameters of an integral network and back.

A checkpoint keeps the weights of the full network, folded, so that every quality works on a trained network as on an
imported one. Beside them lie the scale and shift of every normalized node and the moments at the measured sizes
(`TrainedSizes`); together they give the parameters back. Kernel sampling also needs the channel permutations, which
imported checkpoints keep, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from inn_core.arrays import Array
from inn_core.checkpoint.calibration import calibration_samples
from inn_core.checkpoint.checkpoint import Checkpoint, MeasuredSize, StoredMoments, TrainedSizes
from inn_core.errors import InvalidInputError, StatisticsMissingError
from inn_core.fitting.runtime import affordable_samples, chunk_samples, spread, to_chunks
from inn_core.graph.analysis.shapes import SHAPED_BY_WEIGHTS
from inn_core.graph.axis import axis_groups
from inn_core.graph.cost import CostModel, Unit
from inn_core.graph.linear_nodes import integrated_axes
from inn_core.graph.program import Program
from inn_core.integral.channel_permutation import smoothing_orders
from inn_core.integral.kernel import KernelSampling
from inn_core.integral.kernel_sampler import KernelSampler, sampling_from
from inn_core.integral.nested_sampler import NestedSampler, Sampler
from inn_core.sized.batch_norm import Moments, measure_moments, normalized_nodes, wide
from inn_core.sized.kernel_parameters import KernelParameters
from inn_core.sized.size_statistics import CalibratedSize, SizeStatistics

STATISTICS_SAMPLES = 1024


def is_trained(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint keeps trained sizes."""
    return checkpoint.trained is not None


def smallest_trained(checkpoint: Checkpoint) -> int:
    """Parameters of the smallest size that a trained checkpoint was trained at: the last knot of that size path."""
    cost = CostModel.of(checkpoint.template, checkpoint.structure)
    assert checkpoint.trained is not None
    smallest = checkpoint.trained.paths["params"][-1].sizes
    return int(cost.evaluate("params", cost.to_row(smallest))[0])


def sampler_of(checkpoint: Checkpoint) -> Sampler:
    """The sampler that a checkpoint was trained with; nested where it was not."""
    if checkpoint.trained is not None and checkpoint.trained.sampling["kind"] == "kernel":
        return kernel_sampler(checkpoint, sampling=sampling_from(checkpoint.trained.sampling))
    return NestedSampler(checkpoint)


def kernel_sampler(checkpoint: Checkpoint, *, sampling: KernelSampling | None = None) -> KernelSampler:
    """A kernel sampler with the smoothing orders and the tuned partitions of a checkpoint.

    Orders that an older checkpoint does not keep are found again, which may take minutes for large groups.
    """
    orders = checkpoint.channel_permutations or smoothing_orders(checkpoint)
    partitions = checkpoint.trained.partitions if checkpoint.trained is not None else {}
    tuned = {group: [_tensor(edges) for _, edges in sorted(by_cells.items())] for group, by_cells in partitions.items()}
    return KernelSampler(checkpoint, orders, sampling=sampling, tuned=tuned)


def read_parameters(checkpoint: Checkpoint, *, normalize: bool) -> tuple[KernelParameters, SizeStatistics | None]:
    """Parameters of an integral network, and the statistics of its sizes where the checkpoint keeps them.

    Args:
        checkpoint: imported or trained.
        normalize: whether an imported network gets normalized nodes; a trained one has those it was trained with.

    Raises:
        StatisticsMissingError: the network was never trained, is to be normalized, and keeps no calibration samples.
    """
    weights = {name: torch.from_numpy(np.array(array)) for name, array in checkpoint.weights.items()}
    program = Program(checkpoint.template.model)
    nodes = normalized_nodes(checkpoint.structure, program, weights)
    make = partial(
        KernelParameters,
        axes=checkpoint.structure.weights,
        integrated=integrated_axes(program.nodes, weights),
        constants=_constants(checkpoint, program),
    )
    trained = checkpoint.trained
    if trained is not None:
        nodes = tuple(node for node in nodes if node.weight in trained.scales)
        scales, shifts = (
            {node.weight: _tensor(kind[node.weight]).to(wide(weights[node.weight].dtype)) for node in nodes}
            for kind in (trained.scales, trained.shifts)
        )
        statistics = _read_statistics(checkpoint, trained.paths)
        for node in nodes:
            gain = scales[node.weight] / statistics.full.moments[node.weight].deviation()
            along = [1] * weights[node.weight].ndim
            along[node.out_axis] = -1
            weight = weights[node.weight]
            weights[node.weight] = (weight / torch.where(gain == 0, 1.0, gain).view(along)).to(weight.dtype)
        return make(weights, scales, shifts, nodes=nodes), statistics
    if not normalize:
        return make(weights, {}, {}, nodes=()), None
    bare = {**weights, **{node.bias: torch.zeros_like(weights[node.bias]) for node in nodes}}
    chunks = statistics_chunks(checkpoint, (), torch.device("cpu"))
    moments = measure_moments(program, nodes, bare, None, {node.weight: weights[node.bias] for node in nodes}, chunks)
    scales = {name: found.to(weights[name]).deviation() for name, found in moments.items()}
    shifts = {node.weight: moments[node.weight].mean + weights[node.bias] for node in nodes}
    return make(weights, scales, shifts, nodes=nodes), None


def to_checkpoint(
    checkpoint: Checkpoint, parts: KernelParameters, sampler: Sampler, statistics: SizeStatistics
) -> Checkpoint:
    """A checkpoint with trained parameters in place of its weights.

    Orders, paths, samples and provenance stay. What belonged to the old weights goes: the anchors, and the smoothing
    orders, which are found again for the new ones unless the kernels were trained in them.
    """
    full = statistics.full
    with torch.no_grad():
        folded = parts.folded(parts.sampled(NestedSampler(checkpoint), full.sizes), full.moments)
    weights = {
        name: folded[name].detach().cpu().contiguous().numpy().astype(old.dtype, copy=False)
        for name, old in checkpoint.weights.items()
    }
    changed, partitions = replace(checkpoint, weights=weights, anchors=()), {}
    if isinstance(sampler, KernelSampler):
        permutations = {name: order.cpu().numpy() for name, order in sampler.orders.items()}
        partitions = {
            name: {len(edges) - 1: edges.cpu().numpy() for edges in tuned} for name, tuned in sampler.tuned.items()
        }
    else:
        permutations = smoothing_orders(changed)
    trained = TrainedSizes(
        sampling=sampler.describe(),
        scales={node.weight: _numpy(parts.scale(node.weight)) for node in parts.nodes},
        shifts={node.weight: _numpy(parts.shift(node.weight)) for node in parts.nodes},
        paths={unit: tuple(_measured(size) for size in path) for unit, path in statistics.paths.items()},
        partitions=partitions,
    )
    return replace(changed, channel_permutations=permutations, trained=trained)


def _measured(size: CalibratedSize) -> MeasuredSize:
    moments = {name: StoredMoments(_numpy(each.mean), _numpy(each.variance)) for name, each in size.moments.items()}
    return MeasuredSize(dict(size.sizes), moments)


def statistics_chunks(
    checkpoint: Checkpoint, samples: Sequence[Tensor], device: torch.device, *, most: int | None = None
) -> list[dict[str, Tensor]]:
    """Samples to measure statistics with, in chunks by graph input: those given, else those of the checkpoint.

    Args:
        checkpoint: the network.
        samples: in the order of the graph inputs, or none.
        device: of the chunks.
        most: samples that are taken, evenly over all; else as many as fit memory.

    Raises:
        StatisticsMissingError: there are none.
    """
    program = Program(checkpoint.template.model)
    if samples:
        if len(samples) != len(program.inputs):
            raise InvalidInputError(f"{len(samples)} inputs were given; the graph reads {', '.join(program.inputs)}")
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in zip(program.inputs, samples, strict=True)}
    elif checkpoint.calibration:
        count = len(next(iter(checkpoint.calibration.values())))
        arrays = calibration_samples(checkpoint, spread(count, STATISTICS_SAMPLES))
    else:
        raise StatisticsMissingError(
            f"checkpoint '{checkpoint.name}' keeps no calibration samples to measure statistics with; pass samples"
        )
    count = min(len(array) for array in arrays.values())
    if not count:
        raise StatisticsMissingError(f"there are no samples to measure the statistics of '{checkpoint.name}' with")
    affordable = affordable_samples(program, checkpoint.structure, 1)
    chosen = spread(count, affordable if most is None else min(most, affordable))
    arrays = {name: array[chosen] for name, array in arrays.items()}
    return to_chunks(arrays, chunk_samples(checkpoint.structure), device)


def _constants(checkpoint: Checkpoint, program: Program) -> set[str]:
    """Weights that training leaves alone: single numbers that follow no group, and what decides shapes."""
    axes = checkpoint.structure.weights
    single = {name for name, array in checkpoint.weights.items() if array.size == 1}
    deciding = {name for node in program.nodes if node.operator in SHAPED_BY_WEIGHTS for name in node.inputs[1:]}
    return {name for name in single if not any(axis_groups(axis) for axis in axes[name])} | deciding


def _read_statistics(checkpoint: Checkpoint, paths: Mapping[Unit, Sequence[MeasuredSize]]) -> SizeStatistics:
    cost = CostModel.of(checkpoint.template, checkpoint.structure)

    def calibrated(unit: Unit, size: MeasuredSize) -> CalibratedSize:
        moments = {name: Moments(_tensor(each.mean), _tensor(each.variance)) for name, each in size.moments.items()}
        return CalibratedSize(int(cost.evaluate(unit, cost.to_row(size.sizes))[0]), size.sizes, moments)

    return SizeStatistics(cost, {unit: [calibrated(unit, size) for size in path] for unit, path in paths.items()})


def _tensor(array: Array) -> Tensor:
    """A copy: arrays of a checkpoint are read-only views of its file."""
    return torch.from_numpy(np.array(array))


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().cpu().contiguous().numpy().astype(np.float32, copy=False)
