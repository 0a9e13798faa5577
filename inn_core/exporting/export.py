"""From a network and a budget to a published artifact: plan, discretize, assemble, verify, manifest."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.qualities import check_quality
from inn_core.exporting.onnx_writer import AssembledFile, write_onnx
from inn_core.files import sync_folder
from inn_core.graph.axis import axis_size
from inn_core.graph.node import default_opset
from inn_core.graph.resized import resize_template
from inn_core.planning.plan import Budget, Plan, choose_plan, feasible_range
from inn_core.planning.tensor_summary import describe_tensors
from inn_core.progress import Progress, no_progress, scaled

BUILD_FORMAT = 4
"""Goes up when equal plans would no longer give equal bytes: another solver, another way to write the file."""

_DISCRETIZED, _WRITTEN = 0.9, 0.95  # share of the work done after these steps


def build_key(checkpoint_digest: str, plan: Plan, quality: str, options: Mapping[str, Any]) -> str:
    """Digest of everything that decides the bytes of an artifact.

    Args:
        checkpoint_digest: `sha256:…` of the `.inn` file.
        plan: sizes of the groups. Different budgets with equal plans have one key.
        quality: not part of the key at the full size, where every quality gives the checkpoint's own weights.
        options: whatever else decides, JSON values by name, see `numeric_options`; not part of the key at the full
            size, where nothing is computed.

    Returns:
        `sha256:` plus hex; independent of the order of keys.
    """
    decisive = {
        "format": BUILD_FORMAT,
        "checkpoint": checkpoint_digest,
        "sizes": dict(plan.sizes),
        "quality": "full" if plan.full_size else quality,
        "options": {} if plan.full_size else dict(options),
    }
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def numeric_options(*, device: str, threads: int) -> dict[str, Any]:
    """What decides the last bits of computed weights on one machine, for `build_key`.

    Sums are split over threads, so that another number of threads rounds otherwise; so do other releases of the
    libraries that add up, and another kind of device.

    Args:
        device: as asked for: `auto`, `cpu` or `cuda`.
        threads: that PyTorch computes with.
    """
    return {"device": device, "threads": threads, "libraries": _libraries()}


@cache
def _libraries() -> dict[str, str]:
    """Releases of the numeric libraries; found without loading them."""
    return {name: metadata.version(name) for name in ("numpy", "torch")}


def export_artifact(
    checkpoint: Checkpoint,
    size: Budget | Plan,
    *,
    quality: str = "refined",
    quadrature: str | None = None,
    multiple_of: int = 1,
    path: str | Path,
    checkpoint_digest: str,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    verify: bool = True,
) -> dict[str, Any]:
    """Make one artifact.

    Args:
        checkpoint: the integral network.
        size: what the artifact may cost at most, or the plan to make; the budget of a plan is its parameters.
        quality: one of `QUALITIES`.
        quadrature: how quality `uniform` samples kernels, see `discretize`.
        multiple_of: every group size is a multiple of it or its full size.
        path: ONNX file to write; it appears when it is verified and on the disk, or not at all.
        checkpoint_digest: `sha256:…` of the network's `.inn` file.
        device: where to compute; `auto` takes CUDA where there is one.
        threads: that PyTorch computes with, at least 1; as many as it is set to when left out.
        progress: told the stage (`plan`, `discretize`, `assemble`, `verify`, `done`) and the finished share.
        verify: run the file in ONNX Runtime and compare with PyTorch and the full network. Without it `parity` and
            `agreement` are None.

    Returns:
        The manifest: `model`, `checkpoint`, `digest`, `budget` (`unit`, `value`), `params`, `macs`, `bytes`,
        `quality`, `method` (how the weights were made), `held_out` (the loss on held-out calibration samples that
        chose the method, or None), `group_sizes`, `multiple_of`, `inputs`, `outputs`, `opset`, `parity`,
        `agreement`, `feasible` (`min`, `max` in the budget's unit), `full_size`, `build_key`, and `seconds` by stage.

    Raises:
        BudgetUnreachableError, InvalidBudgetError: see `choose_plan`.
        QualityUnavailableError: the checkpoint does not keep what the quality needs.
        PartitionError: the quadrature is unknown, or the quality is another than `uniform`.
        ParityError: the artifact does not compute what PyTorch computes.
        ArtifactTooLargeError: it would pass 2 GiB.
        OSError: the file cannot be written.
    """
    path = Path(path)
    report = progress or no_progress
    clock = _Clock()
    report("plan", 0.0)
    check_quality(checkpoint, quality)
    budget = size if isinstance(size, Budget) else Budget("params", size.params)
    plan = size if isinstance(size, Plan) else choose_plan(checkpoint, size, multiple_of=multiple_of)
    smallest, largest = feasible_range(checkpoint, budget.unit, multiple_of)
    clock.lap("plan")
    report("discretize", 0.0)
    with _threads(threads) as used:
        kernels = _kernel_options(quality, quadrature)
        weights, method, held_out = _weights(
            checkpoint, plan, quality, quadrature, device, scaled(report, 0.0, _DISCRETIZED)
        )
    _check_shapes(checkpoint, plan, weights)
    clock.lap("discretize")
    report("assemble", _DISCRETIZED)
    model = resize_template(checkpoint.template, checkpoint.structure, plan.sizes)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.unverified")
    parity: float | None = None
    agreement: float | None = None
    try:
        file: AssembledFile = write_onnx(model, weights, aside)
        clock.lap("assemble")
        if verify:
            report("verify", _WRITTEN)
            from inn_core.exporting.parity import (
                check_parity,  # brings PyTorch and ONNX Runtime, which planning does without
            )

            acceptance = check_parity(checkpoint, model, weights, aside, thorough=quality == "refined")
            parity, agreement = acceptance.parity, acceptance.agreement
        clock.lap("verify")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)
    report("done", 1.0)
    return {
        "model": checkpoint.name,
        "checkpoint": checkpoint_digest,
        "digest": file.digest,
        "budget": {"unit": budget.unit, "value": budget.value},
        "params": plan.params,
        "macs": plan.macs,
        "bytes": file.size_bytes,
        "quality": quality,
        "method": method,
        "held_out": held_out,
        "group_sizes": dict(plan.sizes),
        "multiple_of": multiple_of,
        "inputs": describe_tensors(model.graph.input),
        "outputs": describe_tensors(model.graph.output),
        "opset": default_opset(model),
        "parity": parity,
        "agreement": agreement,
        "feasible": {"min": smallest, "max": largest},
        "full_size": plan.full_size,
        "build_key": build_key(
            checkpoint_digest, plan, quality, {**numeric_options(device=device, threads=used), **kernels}
        ),
        "seconds": clock.seconds,
    }


def _kernel_options(quality: str, quadrature: str | None) -> dict[str, str]:
    """What a quadrature adds to the build key: nothing where it is the default, however that was said."""
    if quadrature is None:
        return {}
    from inn_core.discretize.discretize import uniform_sampling  # brings PyTorch
    from inn_core.integral.kernel import KernelSampling

    sampling = uniform_sampling(quality, quadrature)
    return {} if sampling == KernelSampling() else {"quadrature": str(sampling)}


@contextmanager
def _threads(threads: int | None) -> Iterator[int]:
    """Let PyTorch compute with so many threads, or as it is set; gives the number."""
    import torch  # planning does without

    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield before
        return
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


class _Clock:
    """Seconds of each stage since the last."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 4)
        self._last = now


def _weights(
    checkpoint: Checkpoint, plan: Plan, quality: str, quadrature: str | None, device: str, progress: Progress
) -> tuple[dict[str, Array], str, float | None]:
    """Weights in the order and dtypes of the template, how they were made, and the held-out loss."""
    if plan.full_size:
        return {name: checkpoint.weights[name] for name in checkpoint.template.weights}, "full", None
    from inn_core.discretize.discretize import discretize  # brings PyTorch, which planning does without

    result = discretize(checkpoint, plan, quality=quality, quadrature=quadrature, device=device, progress=progress)
    weights = {
        name: result.weights[name].astype(checkpoint.weights[name].dtype, copy=False)
        for name in checkpoint.template.weights
    }
    return weights, result.method, result.held_out


def _check_shapes(checkpoint: Checkpoint, plan: Plan, weights: Mapping[str, Array]) -> None:
    """The promise on parameters is on the elements written, so they are counted and not only computed."""
    for name, axes in checkpoint.structure.weights.items():
        expected = tuple(axis_size(axis, plan.sizes) for axis in axes)
        assert weights[name].shape == expected, f"weight '{name}' has shape {weights[name].shape}, planned {expected}"
    assert sum(array.size for array in weights.values()) == plan.params, "planned and actual parameters differ"
