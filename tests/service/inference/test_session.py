"""A session knows what it takes and whether rows may be joined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from service.inference.errors import InferenceFailedError
from service.inference.providers import CPU
from service.inference.session import Session, open_session

DIGEST = "sha256:" + "0" * 64


def load(path: Path, content: bytes) -> Session:
    path.write_bytes(content)
    return open_session(path, digest=DIGEST, size_bytes=len(content), threads=1, providers=(CPU,))


def test_inputs_outputs_and_results_are_those_of_onnx_runtime(tmp_path: Path, make_linear) -> None:
    content = make_linear()
    session = load(tmp_path / "m.onnx", content)
    assert [spec.describe() for spec in session.inputs] == ["float32[batch, 4]"]
    assert [spec.describe() for spec in session.outputs] == ["float32[batch, 3]"]
    rows = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    expected = onnxruntime.InferenceSession(content, providers=[CPU]).run(None, {"x": rows})[0]
    np.testing.assert_array_equal(session.run({"x": rows})["y"], expected)
    assert session.one_row_seconds > 0.0


def test_rows_of_a_linear_network_are_independent(tmp_path: Path, make_linear) -> None:
    assert load(tmp_path / "m.onnx", make_linear()).rows_are_independent


def test_a_mean_over_the_batch_is_found_out(tmp_path: Path, make_linear) -> None:
    assert not load(tmp_path / "m.onnx", make_linear(mixes_rows=True)).rows_are_independent


def test_a_file_that_is_no_network_fails_without_showing_its_path(tmp_path: Path) -> None:
    with pytest.raises(InferenceFailedError) as caught:
        load(tmp_path / "m.onnx", b"no network")
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.fields["digest"] == DIGEST


def test_a_refused_run_is_our_error(tmp_path: Path, make_lookup) -> None:
    session = load(tmp_path / "m.onnx", make_lookup(entries=5))
    with pytest.raises(InferenceFailedError):
        session.run({"index": np.array([7], dtype=np.int64)})
