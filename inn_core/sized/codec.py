"""How trained sizes lie in a checkpoint, and the way from a checkpoint to parameters and back.

A checkpoint keeps the weights of the full network, folded, so that every quality works on a trained network as on an
imported one. Beside them lie the scale and shift of every normalized node and the moments at the knots; together they
give the parameters back:

    trained/scale/<weight>, trained/shift/<weight>      full size
    trained/<unit>/<k>/sizes                            of the groups, at knot k of a size path
    trained/<unit>/<k>/mean/<weight>, …/variance/<weight>
    trained/partition/<group>/<cells>                   edges of a tuned partition, shape (cells + 1,)

The smoothing order of a group, which kernel sampling needs, is `smooth/<group>`, in imported checkpoints, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from inn_core.arrays import Array
from inn_core.checkpoint.calibration import calibration_samples
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.qualities import SMOOTH, TRAINED
from inn_core.errors import InvalidInputError, StatisticsMissingError
from inn_core.fitting.runtime import affordable_samples, chunk_samples, spread, to_chunks
from inn_core.graph.analysis.shapes import SHAPED_BY_WEIGHTS
from inn_core.graph.axis import axis_groups
from inn_core.graph.cost import PATH_UNITS, CostModel, Unit
from inn_core.graph.linear_nodes import integrated_axes
from inn_core.graph.program import Program
from inn_core.integral.channel_permutation import smoothing_orders
from inn_core.integral.kernel import KernelSampling
from inn_core.integral.kernel_sampler import KernelSampler, sampling_from
from inn_core.integral.nested_sampler import NestedSampler, Sampler
from inn_core.sized.batch_norm import Moments, NormalizedNode, measure_moments, normalized_nodes, wide
from inn_core.sized.kernel_parameters import KernelParameters
from inn_core.sized.size_statistics import CalibratedSize, SizeStatistics

STATISTICS_SAMPLES = 1024
INSTANT = "instant/"


def is_trained(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint keeps trained sizes."""
    return bool(checkpoint.sampling)


def smallest_trained(checkpoint: Checkpoint) -> int:
    """Parameters of the smallest size that a trained checkpoint was trained at: the last knot of that size path."""
    cost = CostModel.of(checkpoint.template, checkpoint.structure)
    *_, last = _knot_sizes(checkpoint, "params")
    return int(cost.evaluate("params", last[None])[0])


def sampler_of(checkpoint: Checkpoint) -> Sampler:
    """The sampler that a checkpoint was trained with; nested where it was not."""
    if checkpoint.sampling.get("kind") == "kernel":
        return kernel_sampler(checkpoint, sampling=sampling_from(checkpoint.sampling))
    return NestedSampler(checkpoint)


def kernel_sampler(checkpoint: Checkpoint, *, sampling: KernelSampling | None = None) -> KernelSampler:
    """A kernel sampler with the smoothing orders and the tuned partitions of a checkpoint.

    Orders that an older checkpoint does not keep are found again, which may take minutes for large groups.
    """
    if all(SMOOTH + name in checkpoint.statistics for name in checkpoint.structure.full_sizes()):
        orders = {name: checkpoint.statistics[SMOOTH + name] for name in checkpoint.structure.full_sizes()}
    else:
        orders = smoothing_orders(checkpoint)
    tuned: dict[str, list[Tensor]] = {}
    for group in checkpoint.structure.groups:
        prefix = f"{TRAINED}partition/{group.name}/"
        for cells in range(1, group.size):
            edges = checkpoint.statistics.get(f"{prefix}{cells}")
            if edges is not None:
                tuned.setdefault(group.name, []).append(torch.from_numpy(np.array(edges)))
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
    if is_trained(checkpoint):
        nodes = tuple(node for node in nodes if f"{TRAINED}scale/{node.weight}" in checkpoint.statistics)
        scales, shifts = (
            {name: found.to(wide(weights[name].dtype)) for name, found in _arrays(checkpoint, kind, nodes).items()}
            for kind in ("scale", "shift")
        )
        statistics = _read_statistics(checkpoint, nodes)
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

    Orders, paths, samples and provenance stay. What belonged to the old weights goes: the knots of `instant`.
    """
    full = statistics.full
    with torch.no_grad():
        folded = parts.folded(parts.sampled(NestedSampler(checkpoint), full.sizes), full.moments)
    weights = {
        name: folded[name].detach().cpu().contiguous().numpy().astype(old.dtype, copy=False)
        for name, old in checkpoint.weights.items()
    }
    kept = {name: array for name, array in checkpoint.statistics.items() if not name.startswith((TRAINED, INSTANT))}
    arrays: dict[str, Array] = {}
    for node in parts.nodes:
        arrays[f"{TRAINED}scale/{node.weight}"] = _numpy(parts.scale(node.weight))
        arrays[f"{TRAINED}shift/{node.weight}"] = _numpy(parts.shift(node.weight))
    for unit, knots in statistics.paths.items():
        for number, knot in enumerate(knots):
            prefix = f"{TRAINED}{unit}/{number}"
            arrays[f"{prefix}/sizes"] = np.array(list(knot.sizes.values()), dtype=np.int64)
            for weight, moments in knot.moments.items():
                arrays[f"{prefix}/mean/{weight}"] = _numpy(moments.mean)
                arrays[f"{prefix}/variance/{weight}"] = _numpy(moments.variance)
    if isinstance(sampler, KernelSampler):
        for name, order in sampler.orders.items():
            arrays[SMOOTH + name] = order.cpu().numpy()
        for name, tuned in sampler.tuned.items():
            for edges in tuned:
                arrays[f"{TRAINED}partition/{name}/{len(edges) - 1}"] = edges.cpu().numpy()
    return replace(checkpoint, weights=weights, statistics={**kept, **arrays}, sampling=sampler.describe())


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


def _arrays(checkpoint: Checkpoint, kind: str, nodes: Sequence[NormalizedNode]) -> dict[str, Tensor]:
    return {
        node.weight: torch.from_numpy(np.array(checkpoint.statistics[f"{TRAINED}{kind}/{node.weight}"]))
        for node in nodes
    }


def _knot_sizes(checkpoint: Checkpoint, unit: Unit) -> Iterator[Array]:
    """Sizes of the groups at every knot of a size path, the full network first."""
    for number in itertools.count():
        row = checkpoint.statistics.get(f"{TRAINED}{unit}/{number}/sizes")
        if row is None:
            return
        yield row


def _read_statistics(checkpoint: Checkpoint, nodes: Sequence[NormalizedNode]) -> SizeStatistics:
    cost = CostModel.of(checkpoint.template, checkpoint.structure)
    paths: dict[Unit, list[CalibratedSize]] = {unit: [] for unit in PATH_UNITS}
    for unit, knots in paths.items():
        for row in _knot_sizes(checkpoint, unit):
            prefix = f"{unit}/{len(knots)}"
            means = _arrays(checkpoint, f"{prefix}/mean", nodes)
            variances = _arrays(checkpoint, f"{prefix}/variance", nodes)
            moments = {name: Moments(means[name], variances[name]) for name in means}
            knots.append(CalibratedSize(int(cost.evaluate(unit, row[None])[0]), cost.to_sizes(row), moments))
    return SizeStatistics(cost, paths)


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().cpu().contiguous().numpy().astype(np.float32, copy=False)
