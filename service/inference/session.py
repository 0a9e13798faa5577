"""A session: one artifact loaded in ONNX Runtime, what it takes and gives, and how it was found to behave.

The memory arena stays off on the CPU: it made no run faster in our measurements, from a 24 thousand parameter network
to a 224x224 convolutional one, and keeps memory that the next session needs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from service.ground.metrics import gauge
from service.inference.errors import InferenceFailedError
from service.inference.providers import CPU
from service.inference.tensors import NUMPY_TYPES, Array, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

PROBE_ROWS = 3
# Largest difference, relative to the largest output, that rounding alone explains; rows that mix differ by far more.
ROW_TOLERANCE = {"float16": 2e-2, "float32": 1e-3, "float64": 1e-6}

_LOADED = gauge("inn_sessions_loaded", "Sessions loaded.")
_LOADED_BYTES = gauge("inn_sessions_bytes", "Bytes of the artifacts loaded in sessions.")


def show_sessions(n_sessions: int, size_bytes: int) -> None:
    """Shows in the metrics how many sessions are loaded now, of artifacts of how many bytes."""
    _LOADED.set(n_sessions)
    _LOADED_BYTES.set(size_bytes)


@dataclass(frozen=True)
class Session:
    """One loaded artifact.

    Attributes:
        digest: of the artifact.
        size_bytes: of the artifact's file.
        inputs, outputs: in graph order.
        rows_are_independent: the first axis of all inputs and outputs is one free batch axis, and a row's result was
            found not to depend on the rows beside it, so requests may be joined and split along it.
        one_row_seconds: time of one run of one row, measured at loading; 0.0 when it could not be measured.
    """

    digest: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    rows_are_independent: bool
    one_row_seconds: float
    runtime: onnxruntime.InferenceSession

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run the network; may be called from any thread.

        Args:
            arrays: one array per input, already checked against `inputs`.

        Returns:
            One array per output, in graph order.

        Raises:
            InferenceFailedError: ONNX Runtime refuses, for instance sizes that the graph cannot combine.
        """
        try:
            values = self.runtime.run(None, arrays)
        except Exception as error:  # ONNX Runtime raises many unrelated classes; their text may show file paths
            raise InferenceFailedError(self.digest) from error
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}


def open_session(path: Path, *, digest: str, size_bytes: int, threads: int, providers: Sequence[str]) -> Session:
    """Load an artifact and find out how it behaves; takes milliseconds to seconds, call it outside the event loop.

    Args:
        path: the ONNX file.
        digest, size_bytes: of the file.
        threads: of one run; 0 takes one for each processor core.
        providers: from `usable_providers`.

    Raises:
        InferenceFailedError: ONNX Runtime cannot load the file, or it has an input that holds no numbers.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = providers[0] != CPU
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle sessions must not burn the cores
    try:
        runtime = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        inputs = tuple(_spec(value) for value in runtime.get_inputs())
        outputs = tuple(_spec(value) for value in runtime.get_outputs())
    except Exception as error:  # as above
        raise InferenceFailedError(digest) from error
    independent, seconds = _probe(runtime, inputs, outputs)
    return Session(
        digest=digest,
        size_bytes=size_bytes,
        inputs=inputs,
        outputs=outputs,
        rows_are_independent=independent,
        one_row_seconds=seconds,
        runtime=runtime,
    )


def _spec(value: Any) -> TensorSpec:
    shape = tuple(
        size if isinstance(size, int) else (size or f"{value.name}.{axis}") for axis, size in enumerate(value.shape)
    )
    return TensorSpec(name=value.name, dtype=NUMPY_TYPES[value.type], shape=shape)


def _probe(
    runtime: onnxruntime.InferenceSession, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[bool, float]:
    """Run a few random rows: does a row depend on its neighbours, and how long does one row take?"""
    firsts = {spec.shape[0] if spec.shape else None for spec in (*inputs, *outputs)}
    others = [size for spec in inputs for size in spec.shape[1:]]
    batch = next(iter(firsts))
    if len(firsts) != 1 or not isinstance(batch, str) or not all(isinstance(size, int) for size in others):
        return False, 0.0
    random = np.random.default_rng(0)
    several: dict[str, Array] = {}
    for spec in inputs:
        shape = (PROBE_ROWS, *(int(size) for size in spec.shape[1:]))
        values = random.random(shape) if spec.dtype.kind == "f" else random.integers(0, 2, shape)
        several[spec.name] = values.astype(spec.dtype)
    one = {name: values[:1] for name, values in several.items()}
    try:
        together = runtime.run(None, several)
        alone = runtime.run(None, one)
        started = time.perf_counter()
        runtime.run(None, one)
        seconds = time.perf_counter() - started
    except Exception:  # made-up values may be out of range for the network: then nothing is known of it
        return False, 0.0
    pairs = zip(outputs, together, alone, strict=True)
    independent = all(
        _same_row(joined[:1], single, ROW_TOLERANCE.get(spec.dtype.name, 0.0)) for spec, joined, single in pairs
    )
    return independent, seconds


def _same_row(joined: Array, single: Array, tolerance: float) -> bool:
    first, second = joined.astype(np.float64), single.astype(np.float64)
    if first.shape != second.shape or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return False
    return bool(np.abs(first - second).max(initial=0.0) <= tolerance * np.abs(second).max(initial=0.0))
