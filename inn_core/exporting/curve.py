"""The size/quality curve of an integral network: what every size costs and how well it does on real samples.

This is what `inn curve` prints. A point is built exactly as an artifact of that size is (plan, discretize) and run by
the PyTorch program of the resized template; nothing is read off predicted curves.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inn_core.arrays import Array
from inn_core.checkpoint.calibration import calibration_samples
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.qualities import SIZES_AS_TRAINED
from inn_core.checkpoint.samples import LABELS, checked_arrays, checked_labels, input_dtypes
from inn_core.discretize.discretize import discretize
from inn_core.errors import InvalidEvaluationError
from inn_core.fitting.runtime import choose_device, chunk_samples
from inn_core.graph.program import Program
from inn_core.graph.resized import resize_template
from inn_core.planning.plan import Budget, Plan, choose_plan, feasible_range
from inn_core.progress import Progress, no_progress, scaled
from inn_core.sized.codec import is_trained, smallest_trained

DEFAULT_POINTS = 10


def curve(
    checkpoint: Checkpoint,
    *,
    data: Mapping[str, Array] | None = None,
    params: Sequence[int] | None = None,
    quality: str = "refined",
    quadrature: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure cost against quality at several sizes.

    Args:
        checkpoint: the integral network.
        data: one array per graph input, samples first, in the network's own input range (another numeric dtype is
            cast), and optionally `labels`, classes of shape `(n,)`. None measures on the calibration samples, which
            the refined sizes were fitted to: their agreement is then optimistic.
        params: targets in parameters, each inside or above the feasible range; None takes ten, spaced geometrically
            over the feasible range, of trained sizes over the range that was trained.
        quality, quadrature: how sizes are made, as in `discretize`.
        device: where to compute; "auto" takes CUDA where there is one.
        progress: told the size in work and the finished share.

    Returns:
        `{"full": point, "points": [point, …]}`, JSON-ready, points in the order of `params`. A point has `params`,
        `macs` (of one sample), `bytes` (of the ONNX file, see `Plan`), `accuracy` (0 to 1; None without labels),
        `agreement` with the full network (see `agreement`), and `seconds` (to plan and discretize; 0 at full size).

    Raises:
        InvalidEvaluationError: there are no samples, an array is missing or has another shape than its graph input,
            or the labels do not fit.
        BudgetUnreachableError: a target is below the smallest size.
    """
    report = progress or no_progress
    samples = _checked_samples(checkpoint, data)
    n_samples = len(next(iter(samples.values())))
    labels = _checked_labels(data, n_samples)
    smallest, largest = feasible_range(checkpoint, "params")
    if quality in SIZES_AS_TRAINED and is_trained(checkpoint):
        smallest = smallest_trained(checkpoint)
    targets = list(params) if params is not None else spaced_targets(smallest, largest)
    place = choose_device(device)

    report("full network", 0.0)
    full_plan = choose_plan(checkpoint, Budget("params", largest))
    full_output = _run(checkpoint, full_plan, checkpoint.weights, samples, place)
    points: list[dict[str, Any]] = []
    for index, target in enumerate(targets):
        start, end = ((index + step) / (len(targets) + 1) for step in (1, 2))
        report(f"{target:,} parameters", start)
        started = time.perf_counter()
        plan = choose_plan(checkpoint, Budget("params", target))
        weights = checkpoint.weights
        if not plan.full_size:
            inner = scaled(report, start, end)
            weights = discretize(
                checkpoint, plan, quality=quality, quadrature=quadrature, device=device, progress=inner
            ).weights
        seconds = time.perf_counter() - started
        output = full_output if plan.full_size else _run(checkpoint, plan, weights, samples, place)
        points.append(_point(plan, output, full_output, labels, seconds))
    report("done", 1.0)
    return {"full": _point(full_plan, full_output, full_output, labels, 0.0), "points": points}


def check_samples(checkpoint: Checkpoint, data: Mapping[str, Array] | None) -> None:
    """Raise what `curve` would raise about its samples, without running the network.

    Args:
        checkpoint: the integral network.
        data: as in `curve`.

    Raises:
        InvalidEvaluationError: see `curve`.
    """
    samples = _checked_samples(checkpoint, data)
    labels = _checked_labels(data, len(next(iter(samples.values()))))
    kind = checkpoint.template.model.graph.output[0].type.tensor_type
    if labels is not None and kind.HasField("shape"):
        _require_classes(tuple(dim.dim_value or dim.dim_param or "?" for dim in kind.shape.dim))


def spaced_targets(smallest: int, largest: int, *, n_points: int = DEFAULT_POINTS) -> list[int]:
    """Increasing integers from `smallest` to `largest`, both included, with equal ratios as far as rounding allows."""
    spaced = np.geomspace(smallest, largest, n_points)
    spaced[0], spaced[-1] = smallest, largest
    return sorted({round(float(value)) for value in spaced})


def agreement(
    full: NDArray[np.floating[Any]],  # shape: (n, classes) or any
    sized: NDArray[np.floating[Any]],  # shape: that of `full`
) -> float:
    """How well an output stands for the full network's, 1 where they are equal.

    Returns:
        For an output of shape `(n, classes)` with at least two classes, the share of samples whose largest value is
        at the same position; else 1 minus the relative error `|sized - full| / |full|` (2-norms over everything),
        not below 0.
    """
    if full.ndim == 2 and full.shape[1] > 1:
        return float(np.mean(full.argmax(1) == sized.argmax(1)))
    wide = full.astype(np.float64)
    error, size = float(np.linalg.norm(sized - wide)), float(np.linalg.norm(wide))
    if size == 0.0:
        return 1.0 if error == 0.0 else 0.0
    return max(0.0, 1.0 - error / size)


def _point(
    plan: Plan, output: Array, full_output: Array, labels: NDArray[np.int64] | None, seconds: float
) -> dict[str, Any]:
    accuracy = None
    if labels is not None:
        _require_classes(output.shape)
        accuracy = float(np.mean(output.argmax(1) == labels))
    return {
        "params": int(plan.params),
        "macs": int(plan.macs),
        "bytes": int(plan.bytes),
        "accuracy": accuracy,
        "agreement": agreement(full_output, output),
        "seconds": round(seconds, 4),
    }


def _require_classes(shape: Sequence[int | str]) -> None:
    if len(shape) != 2:
        raise InvalidEvaluationError(
            f"labels need an output of shape (samples, classes), this network's has shape {tuple(shape)}; "
            "leave the labels out to measure agreement",
            shape=list(shape),
        )


def _run(
    checkpoint: Checkpoint,
    plan: Plan,
    weights: Mapping[str, Array],
    samples: Mapping[str, Array],
    device: torch.device,
) -> Array:
    """First output of one size on all samples, shape `(n, …)`."""
    program = Program(resize_template(checkpoint.template, checkpoint.structure, plan.sizes), device=device)
    tensors = {name: torch.as_tensor(np.array(value), device=device) for name, value in weights.items()}
    step = chunk_samples(checkpoint.structure)
    count = len(next(iter(samples.values())))
    outputs = []
    with torch.inference_mode():
        for start in range(0, count, step):
            chunk = {name: torch.from_numpy(np.array(value[start : start + step])) for name, value in samples.items()}
            outputs.append(program.run(tensors, chunk)[program.outputs[0]].cpu().numpy())
    return np.concatenate(outputs)


def _checked_samples(checkpoint: Checkpoint, data: Mapping[str, Array] | None) -> dict[str, Array]:
    source = calibration_samples(checkpoint) if data is None else data
    if data is None and not source:
        raise InvalidEvaluationError(
            f"checkpoint '{checkpoint.name}' keeps no samples; give evaluation data with one array per graph input"
        )
    samples = checked_arrays(checkpoint, source, what="evaluation", fewest=1, refuse=InvalidEvaluationError)
    dtypes = input_dtypes(checkpoint)
    return {name: array.astype(dtypes[name], copy=False) for name, array in samples.items()}


def _checked_labels(data: Mapping[str, Array] | None, n_samples: int) -> NDArray[np.int64] | None:
    if data is None or LABELS not in data:
        return None
    return checked_labels(data[LABELS], n_samples, refuse=InvalidEvaluationError)
