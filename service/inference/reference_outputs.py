"""Self-test vectors: numbers that an artifact must give for made-up inputs, so that a node knows its copy computes.

Inputs are not shipped, only a seed: the same few lines make them on the hub and on every node, on any machine. What is
compared are the first numbers of each output, since rounding differs from one processor to the next but a wrong or
damaged network is far off.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.ground.errors import ServiceError
from service.inference.errors import InferenceFailedError
from service.inference.session import ROW_TOLERANCE, Session
from service.inference.tensors import Array, TensorSpec

VALUES_MAX = 64
TOLERANCE = 1e-3
"""Relative to the largest value; rounding of float32 stays far below, float16 gets more (`ROW_TOLERANCE`)."""


class SelfTestFailedError(ServiceError, ValueError):
    """An artifact does not give the numbers that its self-test vectors say."""

    code = "self-test-failed"

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(
            f"artifact {digest} fails its self-test: {reason}; its runtime or its weights differ from the hub's: "
            "choose another size, or update ONNX Runtime on this machine",
            digest=digest,
        )


def make(session: Session, *, seed: str, rows: int = 2) -> dict[str, Any]:
    """Run the network on made-up inputs and note the first numbers of each output.

    Args:
        session: of the artifact.
        seed: hexadecimal digits; the same seed makes the same inputs everywhere.
        rows: size of the batch axis where that is free, at least 1.

    Returns:
        `{"seed", "rows", "outputs": {name: {"shape", "values"}}, "tolerance"}`. `outputs` is None when the network
        cannot be run on made-up values, `values` when some are not finite: then there is nothing to compare.
    """
    tolerance = max((ROW_TOLERANCE.get(spec.dtype.name, TOLERANCE) for spec in session.outputs), default=TOLERANCE)
    vectors: dict[str, Any] = {"seed": seed, "rows": rows, "outputs": None, "tolerance": max(tolerance, TOLERANCE)}
    try:
        results = session.run(inputs_of(session.inputs, seed=seed, rows=rows))
    except InferenceFailedError:
        return vectors
    noted = {}
    for name, values in results.items():
        numbers = _first_numbers(values)
        finite = all(map(math.isfinite, numbers))
        noted[name] = {"shape": list(values.shape), "values": numbers if finite else None}
    return vectors | {"outputs": noted}


def check(session: Session, vectors: Mapping[str, Any]) -> None:
    """Run the network on the inputs of its vectors and compare.

    Args:
        session: of the artifact.
        vectors: from `make`, checked for their types already.

    Raises:
        SelfTestFailedError: an output is missing, has another shape or other numbers, or the network cannot be run.
    """
    outputs = vectors["outputs"]
    if outputs is None:
        return
    try:
        results = session.run(inputs_of(session.inputs, seed=vectors["seed"], rows=vectors["rows"]))
    except InferenceFailedError as error:
        raise SelfTestFailedError(session.digest, "ONNX Runtime cannot run it") from error
    if set(results) != set(outputs):
        raise SelfTestFailedError(
            session.digest, f"its outputs are {sorted(results)}, the vectors have {sorted(outputs)}"
        )
    for name, expected in outputs.items():
        if expected is None:
            continue
        if list(results[name].shape) != list(expected["shape"]):
            raise SelfTestFailedError(
                session.digest,
                f"output '{name}' has shape {list(results[name].shape)}, expected {list(expected['shape'])}",
            )
        if expected["values"] is not None:
            _compare(session.digest, name, _first_numbers(results[name]), expected["values"], vectors["tolerance"])


def inputs_of(specs: Sequence[TensorSpec], *, seed: str, rows: int) -> dict[str, Array]:
    """Made-up inputs: floats in [0, 1), integers and booleans 0 or 1.

    The bytes of SHAKE-256 over `seed:name` are read as little-endian 32 bit integers. The first axis takes `rows` where
    it is free, other free axes take 1.
    """
    arrays: dict[str, Array] = {}
    for spec in specs:
        shape = [size if isinstance(size, int) else (1 if axis else rows) for axis, size in enumerate(spec.shape)]
        stream = hashlib.shake_256(f"{seed}:{spec.name}".encode()).digest(4 * math.prod(shape))
        numbers = np.frombuffer(stream, dtype="<u4").reshape(shape)
        values = numbers / 2.0**32 if spec.dtype.kind == "f" else numbers % 2
        arrays[spec.name] = values.astype(spec.dtype)
    return arrays


def _first_numbers(values: Array) -> list[float]:
    return [float(value) for value in values.reshape(-1)[:VALUES_MAX]]


def _compare(digest: str, name: str, found: list[float], expected: Sequence[float], tolerance: float) -> None:
    if len(found) != len(expected):
        raise SelfTestFailedError(digest, f"output '{name}' has {len(found)} numbers, expected {len(expected)}")
    largest = max(map(abs, expected), default=0.0) or 1.0
    for index, (value, wanted) in enumerate(zip(found, expected, strict=True)):
        # not "greater": NaN must fail too
        if not abs(value - wanted) <= tolerance * largest:
            raise SelfTestFailedError(
                digest, f"number {index} of output '{name}' is {value:.6g}, expected {wanted:.6g} within {tolerance:g}"
            )
