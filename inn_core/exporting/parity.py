"""Run a finished artifact before it is published: ONNX Runtime against PyTorch, and against the full network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from inn_core.arrays import Array
from inn_core.caches import WeakCache
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.samples import chunks, first_samples, fixed_batch, random_samples
from inn_core.errors import ParityError
from inn_core.exporting.curve import agreement
from inn_core.graph.program import Program
from inn_core.graph.resized import resize_template
from inn_core.planning.plan import planner_of

PARITY_TOLERANCE = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2}
"""Largest relative difference between PyTorch and ONNX Runtime, by dtype of the output: both sum in float32 but in
another order, which costs about 1e-6; half precision rounds every value between operators to 1e-3."""

BOUNDED = ("Sigmoid", "Softmax", "HardSigmoid")
BOUNDED_SCALE = 1e-2
"""Runtimes compute these to an absolute error, so where all of an output is near 0 its relative error says nothing."""

PARITY_SAMPLES = 4  # at most; a quarter of those for agreement where these are few
AGREEMENT_SAMPLES = (4, 256)  # at least, at most
QUICK_MACS, THOROUGH_MACS = 16e9, 128e9
"""Work of the full network on the samples: half a second and four seconds or so on two cores."""

_THREADS = 2

Arrays = dict[str, Array]


@dataclass(frozen=True)
class Parity:
    """What running the artifact showed.

    Attributes:
        parity: largest difference between the outputs of PyTorch and ONNX Runtime, relative to the largest output.
        agreement: with the full network on calibration samples, see `inn_core.exporting.curve.agreement`; None when the
            checkpoint keeps no samples.
    """

    parity: float
    agreement: float | None


def check_parity(
    checkpoint: Checkpoint, model: onnx.ModelProto, weights: Mapping[str, Array], path: Path, *, thorough: bool
) -> Parity:
    """Run an artifact in ONNX Runtime on the CPU and compare.

    Args:
        checkpoint: the integral network it was made from.
        model: the resized template it was written from.
        weights: the weights that were written.
        path: the artifact.
        thorough: take more samples, for artifacts that took long to make anyway.

    Raises:
        ParityError: ONNX Runtime cannot run the file, an output is not finite, or the two differ by more than
            `PARITY_TOLERANCE`.
    """
    samples = _samples(checkpoint, thorough=thorough)
    found = _run_artifact(checkpoint, path, samples)
    few = {name: array[: _parity_samples(checkpoint, len(array))] for name, array in samples.items()}
    program = Program(model)
    expected = _run_program(checkpoint, program, weights, few)
    writers = {name: node.operator for node in program.nodes for name in node.outputs}
    parity = max(
        (
            _difference(name, found[name][: len(array)], array, bounded=writers.get(name) in BOUNDED)
            for name, array in expected.items()
        ),
        default=0.0,
    )
    if not checkpoint.calibration:
        return Parity(parity, None)
    first = program.outputs[0]
    return Parity(parity, agreement(_FULL_OUTPUTS[thorough](checkpoint), found[first]))


def _difference(name: str, found: Array, expected: Array, *, bounded: bool) -> float:
    """Relative difference of one output, checked; outputs that are no floats must be equal.

    Args:
        bounded: the output lies between 0 and 1: its scale is then at least `BOUNDED_SCALE`.
    """
    if not np.issubdtype(expected.dtype, np.floating):
        return 0.0 if np.array_equal(found, expected) else 1.0
    wide, reference = found.astype(np.float64), expected.astype(np.float64)
    if wide.shape != reference.shape or not np.isfinite(wide).all() or not np.isfinite(reference).all():
        raise ParityError(
            f"output '{name}' of the artifact has shape {wide.shape} in ONNX Runtime and {reference.shape} in PyTorch, "
            "or is not finite; the artifact is not published: report this network",
            output=name,
        )
    scale = max(float(np.abs(reference).max(initial=0.0)), BOUNDED_SCALE if bounded else 0.0)
    error = float(np.abs(wide - reference).max(initial=0.0))
    relative = error / scale if scale > 0 else error
    tolerance = PARITY_TOLERANCE[str(expected.dtype)]
    if relative > tolerance:
        raise ParityError(
            f"output '{name}' differs by {relative:.1e} between ONNX Runtime and PyTorch, more than {tolerance:.0e}; "
            "the artifact is not published: report this network",
            output=name,
            difference=relative,
        )
    return relative


def _run_artifact(checkpoint: Checkpoint, path: Path, samples: Arrays) -> Arrays:
    """Outputs of the artifact in ONNX Runtime, by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _THREADS
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # the session is used once
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others compute on this machine, too
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises classes of its own that share no base
        raise ParityError(f"ONNX Runtime cannot load the artifact: {error}", reason=str(error)) from error
    names = [value.name for value in session.get_outputs()]
    try:
        return _concatenated(
            dict(zip(names, session.run(names, chunk), strict=True)) for chunk in chunks(checkpoint, samples)
        )
    except Exception as error:  # as above
        raise ParityError(f"ONNX Runtime cannot run the artifact: {error}", reason=str(error)) from error


def _run_program(checkpoint: Checkpoint, program: Program, weights: Mapping[str, Array], samples: Arrays) -> Arrays:
    tensors = {name: _tensor(array) for name, array in weights.items()}
    with torch.inference_mode():
        return _concatenated(
            {
                name: value.numpy()
                for name, value in program.run(tensors, {k: _tensor(v) for k, v in chunk.items()}).items()
            }
            for chunk in chunks(checkpoint, samples)
        )


def _tensor(array: Array) -> torch.Tensor:
    """A tensor on the array's memory; arrays of a checkpoint are read-only and are copied."""
    array = np.asarray(array, order="C")
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _concatenated(parts: Iterable[Arrays]) -> Arrays:
    whole = list(parts)
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in whole]) for name in whole[0]}


def _samples(checkpoint: Checkpoint, *, thorough: bool) -> Arrays:
    """As many calibration samples as the work allows, or a few random ones when the checkpoint keeps none."""
    if not checkpoint.calibration:
        return random_samples(checkpoint, PARITY_SAMPLES)
    least, most = AGREEMENT_SAMPLES
    work = THOROUGH_MACS if thorough else QUICK_MACS
    affordable = int(work / max(planner_of(checkpoint).full_plan().macs, 1))
    return first_samples(checkpoint, min(max(affordable, least), most))


def _parity_samples(checkpoint: Checkpoint, available: int) -> int:
    return fixed_batch(checkpoint) or min(PARITY_SAMPLES, max(1, available // 4))


def _full_output(checkpoint: Checkpoint, *, thorough: bool) -> Array:
    """First output of the full network on its samples."""
    program = Program(resize_template(checkpoint.template, checkpoint.structure, checkpoint.structure.full_sizes()))
    return _run_program(checkpoint, program, checkpoint.weights, _samples(checkpoint, thorough=thorough))[
        program.outputs[0]
    ]


_FULL_OUTPUTS = {thorough: WeakCache(partial(_full_output, thorough=thorough)) for thorough in (False, True)}
