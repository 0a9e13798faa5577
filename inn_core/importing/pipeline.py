"""Import: from an ONNX file or a torch module, and calibration samples, to an integral network."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

from inn_core.arrays import Array
from inn_core.checkpoint.calibration import checked_samples, compact
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.validation import NAME_PATTERN
from inn_core.errors import InvalidNameError, InvalidOnnxError
from inn_core.fitting.channel_order import NestedOrder, consumer_statistics, greedy_order
from inn_core.fitting.channel_statistics import PointStatistics, collect_statistics, output_kinds
from inn_core.fitting.divergence import mean_divergence
from inn_core.fitting.lockstep import SEQUENTIAL, LockstepFit, SizedModel
from inn_core.fitting.runtime import (
    LoadedNetwork,
    affordable_samples,
    choose_device,
    run_outputs,
    split_blocks,
    spread,
    to_chunks,
)
from inn_core.graph.analysis.source import read_onnx
from inn_core.graph.analysis.template import make_template
from inn_core.graph.cost import CostModel
from inn_core.importing.allocation import (
    LAST_RUNG,
    Allocation,
    Measure,
    Sizes,
    estimated_allocation,
    measured_allocation,
)
from inn_core.importing.anchors import make_anchors
from inn_core.importing.torch_export import export_factory
from inn_core.integral.channel_permutation import smoothing_orders
from inn_core.integral.selection import selections
from inn_core.planning.size_path import build_path
from inn_core.progress import Progress, no_progress, scaled

# Samples and rung ratio of the measured allocation, from thorough to quick; the first whose work fits is taken.
EFFORTS = ((1024, 0.8), (512, 0.8), (256, 0.75), (128, 0.7), (64, 0.6))
MOST_WORK = 3e13  # multiply-accumulates of forward passes that an import may spend on measuring: minutes on two cores
CANDIDATES_AT_ONCE = 8  # sized networks in one walk, so that their activations fit memory


def import_network(
    source: str | Path | bytes | onnx.ModelProto,
    calibration: Mapping[str, Array] | Array,
    *,
    name: str,
    freeze: Sequence[tuple[str, int]] = (),
    statistics_only: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Checkpoint:
    """Make an integral network of a trained one.

    Args:
        source: an `.onnx` file, its bytes or its model, or `package.module:factory` returning (module, example inputs).
        calibration: unlabelled samples by graph input, samples first; arrays of other names are ignored. One array
            where the graph reads one input. A thousand varied samples are good, 64 are few.
        name: of the checkpoint, `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
        freeze: `(tensor, axis)` that keep their size.
        statistics_only: keep no samples; only `instant` is offered then.
        device: `auto`, `cpu` or `cuda`.
        progress: told stages and the finished share.

    Returns:
        The network with orders, allocation, size paths and everything that both qualities need.

    Raises:
        InvalidNameError, InvalidOnnxError, ExternalDataError, GraphTooLargeError, UnsupportedOperatorError,
        InvalidWeightsError, InvalidCalibrationError, InvalidFreezeError, InvalidModuleError, DeviceError: see their
        messages. OSError: the file cannot be read.
    """
    report = progress or no_progress
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidNameError(
            f"name {name!r} is not allowed; use 1 to 64 letters, digits, dots, dashes and underscores", name=name
        )
    target = choose_device(device)
    report("reading", 0.0)
    model = _read(source)
    samples = checked_samples(model, calibration)
    imported = make_template(model, {key: array.shape[1:] for key, array in samples.items()}, frozen=freeze)
    loaded = LoadedNetwork.build(imported.template, imported.structure, imported.weights, target)
    bare = Checkpoint(name, imported.template, imported.weights, imported.structure, {}, {}, {})
    cost = CostModel.of(bare.template, bare.structure)
    points = collect_statistics(
        loaded.program, imported.structure, loaded.weights, loaded.chunks(samples), progress=scaled(report, 0.02, 0.1)
    )
    orders = nested_orders(bare, points, loaded, scaled(report, 0.1, 0.15))
    network = replace(bare, orders={key: order.order for key, order in orders.items()})
    allocation, effort = _allocate(network, cost, orders, loaded, samples, scaled(report, 0.15, 0.75))
    network = replace(
        network,
        curves=allocation.curves,
        paths={"params": allocation.path, "macs": build_path(cost, allocation.curves, unit="macs")},
        calibration=samples,
    )
    anchors = make_anchors(network, cost, loaded, points, scaled(report, 0.75, 0.95))
    permutations = smoothing_orders(network, progress=scaled(report, 0.95, 1.0))
    codes, levels = _compacted(samples)
    network = replace(
        network,
        calibration={} if statistics_only else codes,
        levels={} if statistics_only else levels,
        anchors=anchors,
        channel_permutations=permutations,
        provenance=_provenance(source, model, samples, freeze, effort),
    )
    report("done", 1.0)
    return network


def nested_orders(
    checkpoint: Checkpoint, points: Sequence[PointStatistics], loaded: LoadedNetwork, progress: Progress
) -> dict[str, NestedOrder]:
    """The greedy order of every group; one that no dense node reads keeps its largest filters first."""
    demands = consumer_statistics(checkpoint.structure, points, loaded.weights)
    orders = {}
    for number, group in enumerate(checkpoint.structure.groups):
        if demands[group.name]:
            orders[group.name] = greedy_order(demands[group.name])
        else:
            orders[group.name] = _order_by_norm(checkpoint, group.name)
        progress("ordering", (number + 1) / len(checkpoint.structure.groups))
    return orders


def _order_by_norm(checkpoint: Checkpoint, name: str) -> NestedOrder:
    group = next(group for group in checkpoint.structure.groups if group.name == name)
    energy = np.zeros(group.size)
    for tensor, axis in group.places:
        weight = checkpoint.weights[tensor].astype(np.float64)
        if weight.shape[axis] == group.size:
            energy += np.square(np.moveaxis(weight, axis, 0).reshape(group.size, -1)).sum(1)
    order = np.argsort(-energy, kind="stable").astype(np.int64)
    left = np.concatenate([np.cumsum(energy[order][::-1])[::-1], [0.0]])
    return NestedOrder(order, left / max(float(energy.sum()), 1e-300))


def _read(source: str | Path | bytes | onnx.ModelProto) -> onnx.ModelProto:
    if isinstance(source, onnx.ModelProto):
        return read_onnx(source.SerializeToString())
    if isinstance(source, bytes):
        return read_onnx(source)
    if isinstance(source, str) and ":" in source and not Path(source).exists():
        return read_onnx(export_factory(source).SerializeToString())
    path = Path(source)
    if not path.is_file():
        raise InvalidOnnxError(
            f"there is no file '{path}'; give an .onnx file or package.module:factory", source=str(path)
        )
    return read_onnx(path)


def _allocate(
    checkpoint: Checkpoint,
    cost: CostModel,
    orders: Mapping[str, NestedOrder],
    loaded: LoadedNetwork,
    samples: Mapping[str, Array],
    progress: Progress,
) -> tuple[Allocation, str]:
    if not checkpoint.structure.groups:
        return estimated_allocation(cost, orders), "none: nothing can be resized"
    held = affordable_samples(loaded.program, loaded.structure, 1 + CANDIDATES_AT_ONCE) * 2  # half of them walk
    available = min(len(next(iter(samples.values()))), held)
    macs = int(cost.evaluate("macs", cost.full()[None])[0])
    for count, ratio in EFFORTS:
        if count > available and count != EFFORTS[-1][0]:
            continue
        rungs = math.log(LAST_RUNG) / math.log(ratio)
        work = macs * min(count, available) * rungs * (len(orders) + 1)
        if work <= MOST_WORK:
            positions = spread(len(next(iter(samples.values()))), min(count, available))
            measure = _measurement(checkpoint, loaded, {name: array[positions] for name, array in samples.items()})
            return (
                measured_allocation(cost, orders, measure, rung_ratio=ratio, progress=progress),
                f"measured on {min(count, available)} samples, rungs at a ratio of {ratio}",
            )
    return estimated_allocation(cost, orders), "estimated from second-order statistics"


def _measurement(checkpoint: Checkpoint, loaded: LoadedNetwork, samples: Mapping[str, Array]) -> Measure:
    """Divergence of refined networks: fitted on one half of the samples, measured on the other."""
    fit_on, hold_out = split_blocks(len(next(iter(samples.values()))), held_out=0.5)
    fitting = to_chunks({name: array[fit_on] for name, array in samples.items()}, loaded.chunk, loaded.device)
    judge = to_chunks({name: array[hold_out] for name, array in samples.items()}, loaded.chunk, loaded.device)
    full_outputs = run_outputs(loaded.program, loaded.weights, judge)
    kinds = output_kinds(loaded.program, full_outputs)

    def measure(plans: Sequence[Sizes]) -> list[float]:
        found = []
        for start in range(0, len(plans), CANDIDATES_AT_ONCE):
            candidates = [
                SizedModel(
                    str(start + i),
                    checkpoint,
                    loaded.weights,
                    selections(checkpoint.orders, sizes),
                    SEQUENTIAL,
                    device=loaded.device,
                )
                for i, sizes in enumerate(plans[start : start + CANDIDATES_AT_ONCE])
            ]
            LockstepFit(checkpoint, loaded.program, loaded.weights, candidates).run(fitting)
            for candidate in candidates:
                outputs = run_outputs(candidate.program, candidate.fitted, judge)
                found.append(mean_divergence(full_outputs, outputs, kinds))
                candidate.environments = []
        return found

    return measure


def _compacted(samples: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    codes: dict[str, Array] = {}
    levels: dict[str, Array] = {}
    for name, array in samples.items():
        codes[name], table = compact(array)
        if table is not None:
            levels[name] = table
    return codes, levels


def _provenance(
    source: str | Path | bytes | onnx.ModelProto,
    model: onnx.ModelProto,
    samples: Mapping[str, Array],
    freeze: Sequence[tuple[str, int]],
    allocation: str,
) -> dict[str, object]:
    count = len(next(iter(samples.values())))
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    named = source if isinstance(source, str | Path) else f"{type(source).__name__} in memory"
    return {
        "source": Path(named).name if Path(named).exists() else str(named),
        "source_graph_digest": f"sha256:{digest}",
        "producer": model.producer_name,
        "calibration_samples": count,
        "frozen": [f"{tensor}:{axis}" for tensor, axis in freeze],
        "allocation": allocation,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
    }
