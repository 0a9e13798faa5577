"""Self-test vectors: equal inputs everywhere, and a network that computes something else is found."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.inference.reference_outputs import SelfTestFailedError, check, inputs_of, make
from service.inference.session import Session, open_session
from service.inference.tensors import TensorSpec
from tests.service.inference.conftest import MakeNetwork

SEED = "00ff"


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], Session]:
    """Opens a network."""

    def open_bytes(content: bytes) -> Session:
        path = tmp_path / f"{hashlib.sha256(content).hexdigest()}.onnx"
        path.write_bytes(content)
        return open_session(
            path,
            digest=f"sha256:{path.stem}",
            size_bytes=len(content),
            threads=1,
            providers=("CPUExecutionProvider",),
        )

    return open_bytes


def test_inputs_are_the_documented_numbers() -> None:
    specs = [
        TensorSpec("x", np.dtype(np.float32), ("batch", 3, "free")),
        TensorSpec("ids", np.dtype(np.int64), (2, 2)),
        TensorSpec("mask", np.dtype(np.bool_), ("batch",)),
    ]
    found = inputs_of(specs, seed=SEED, rows=2)
    words = struct.unpack("<6I", hashlib.shake_256(b"00ff:x").digest(24))
    assert found["x"].shape == (2, 3, 1)
    assert found["x"].dtype == np.float32
    np.testing.assert_array_equal(found["x"].reshape(-1), [np.float32(word / 2**32) for word in words])
    words = struct.unpack("<4I", hashlib.shake_256(b"00ff:ids").digest(16))
    np.testing.assert_array_equal(found["ids"].reshape(-1), [word % 2 for word in words])
    assert found["mask"].dtype == np.bool_


def test_a_network_passes_its_own_vectors_after_a_journey_as_json(
    opened: Callable[[bytes], Session], make_linear: MakeNetwork
) -> None:
    session = opened(make_linear(classes=100))
    vectors = json.loads(json.dumps(make(session, seed=SEED, rows=2)))
    assert set(vectors) == {"seed", "rows", "outputs", "tolerance"}
    assert vectors["outputs"]["y"]["shape"] == [2, 100]
    values = vectors["outputs"]["y"]["values"]
    expected = session.runtime.run(None, inputs_of(session.inputs, seed=SEED, rows=2))[0]
    np.testing.assert_array_equal(np.array(values, np.float32), expected.reshape(-1)[:64])
    check(session, vectors)


def test_another_network_fails_them(opened: Callable[[bytes], Session], make_linear: MakeNetwork) -> None:
    vectors = make(opened(make_linear(seed=1)), seed=SEED)
    with pytest.raises(SelfTestFailedError, match="output 'y'"):
        check(opened(make_linear(seed=2)), vectors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda outputs: outputs["y"].update(shape=[2, 4]), "shape"),
        (lambda outputs: outputs.update(z=outputs["y"]), "outputs are"),
        (lambda outputs: outputs["y"]["values"].pop(), "numbers"),
        (lambda outputs: outputs["y"]["values"].__setitem__(0, 100.0), "number"),
    ],
)
def test_what_differs_is_named(
    opened: Callable[[bytes], Session], make_linear: MakeNetwork, change: Callable[[Any], object], message: str
) -> None:
    session = opened(make_linear())
    vectors = copy.deepcopy(make(session, seed=SEED))
    change(vectors["outputs"])
    with pytest.raises(SelfTestFailedError, match=message):
        check(session, vectors)


def test_differences_within_the_tolerance_of_the_largest_value_pass(
    opened: Callable[[bytes], Session], make_linear: MakeNetwork
) -> None:
    session = opened(make_linear())
    vectors = make(session, seed=SEED)
    values = vectors["outputs"]["y"]["values"]
    largest = max(map(abs, values))
    vectors["outputs"]["y"]["values"] = [value + 0.9e-3 * largest for value in values]
    check(session, vectors)
    vectors["outputs"]["y"]["values"] = [value + 2e-3 * largest for value in values]
    with pytest.raises(SelfTestFailedError):
        check(session, vectors)


def test_numbers_that_are_not_finite_are_not_compared(
    opened: Callable[[bytes], Session], make_linear: MakeNetwork
) -> None:
    session = opened(make_linear())
    vectors = make(session, seed=SEED)
    for outputs in ({"y": {"shape": [2, 3], "values": None}}, {"y": None}, None):
        check(session, vectors | {"outputs": outputs})


def test_a_network_that_refuses_made_up_values_has_no_outputs(
    opened: Callable[[bytes], Session], make_lookup: MakeNetwork
) -> None:
    refusing = opened(make_lookup(entries=1))  # index 1 is out of range
    vectors = make(refusing, seed=SEED, rows=16)
    assert vectors["outputs"] is None
    check(refusing, vectors)
