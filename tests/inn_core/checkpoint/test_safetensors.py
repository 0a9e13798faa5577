"""The file format: against the safetensors library, and against files that lie."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inn_core.arrays import Array
from inn_core.checkpoint.safetensors import read_tensors, read_text, write_tensors
from inn_core.errors import DigestMismatchError, InvalidCheckpointError
from inn_core.files import file_digest

DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16]


def arrays() -> dict[str, Array]:
    random = np.random.default_rng(0)
    result: dict[str, Array] = {f"t/{np.dtype(d)}": random.integers(0, 99, (3, 5)).astype(d) for d in DTYPES}
    result["odd bytes"] = np.arange(7, dtype=np.uint8)
    result["flags"] = np.array([True, False, True])
    result["scalar"] = np.full((), 3.5, dtype=np.float32)
    result["empty"] = np.zeros((0, 4), dtype=np.float32)
    result['né "quoted"\n'] = np.arange(3.0)
    return result


def forge(path: Path, table: Mapping[str, Any], payload: bytes, *, text: str = "{}") -> None:
    """A file whose digest is right, whatever the table claims."""
    header = json.dumps({"__metadata__": {"sha256": "0" * 64, "inn": text}, **table}, separators=(",", ":")).encode()
    blank = len(header).to_bytes(8, "little") + header + payload
    path.write_bytes(blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1))


def entry(dtype: str, shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_arrays_and_text_come_back(tmp_path: Path) -> None:
    path = tmp_path / "x.inn"
    digest = write_tensors(path, arrays(), 'any "text"\n')
    content = read_tensors(path, verify=True)
    assert digest == file_digest(path)
    assert content.text == read_text(path) == 'any "text"\n'
    assert content.tensors.keys() == arrays().keys()
    for name, array in arrays().items():
        found = content.tensors[name]
        np.testing.assert_array_equal(found, array)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.flags.aligned
        assert not found.flags.writeable


def test_the_safetensors_library_reads_our_files(tmp_path: Path) -> None:
    path = tmp_path / "x.inn"
    write_tensors(path, arrays(), "text")
    found = load_file(path)
    assert found.keys() == arrays().keys()
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name], array)


def test_half_precision_of_other_libraries_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "x.inn"
    array = np.arange(5).astype(ml_dtypes.bfloat16)
    write_tensors(path, {"b": array}, "")
    np.testing.assert_array_equal(read_tensors(path, verify=True).tensors["b"], array)


def test_bytes_do_not_depend_on_the_order_of_the_arrays(tmp_path: Path) -> None:
    first = write_tensors(tmp_path / "1", arrays(), "t")
    second = write_tensors(tmp_path / "2", dict(reversed(arrays().items())), "t")
    assert first == second
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_views_and_foreign_byte_order_are_written_plainly(tmp_path: Path) -> None:
    plain = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_tensors(tmp_path / "x", {"t": plain.T, "b": plain.astype(">f4"), "s": plain[:, ::2]}, "")
    found = read_tensors(tmp_path / "x", verify=True).tensors
    np.testing.assert_array_equal(found["t"], plain.T)
    np.testing.assert_array_equal(found["b"], plain)
    np.testing.assert_array_equal(found["s"], plain[:, ::2])


def test_an_unknown_dtype_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'c' has dtype complex128"):
        write_tensors(tmp_path / "x", {"c": np.zeros(2, dtype=np.complex128)}, "")
    assert list(tmp_path.iterdir()) == []


def test_files_are_readable_by_others_as_the_umask_says(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {}, "")
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.inn"
    write_tensors(path, {"a": np.arange(9, dtype=np.float32), "b": np.arange(5, dtype=np.uint8)}, '{"n": 1}')
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises((InvalidCheckpointError, DigestMismatchError)):
            read_tensors(path, verify=True)


def test_every_cut_and_every_addition_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.inn"
    write_tensors(path, {"a": np.arange(9, dtype=np.float32)}, '{"n": 1}')
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(InvalidCheckpointError):
            read_tensors(path, verify=False)
    path.write_bytes(data + b"\0")
    with pytest.raises(InvalidCheckpointError, match="cut off"):
        read_tensors(path, verify=False)


@pytest.mark.parametrize(
    ("table", "payload", "reason"),
    [
        ({"a": entry("F32", [2], 0, 4)}, 4, "does not fit"),
        ({"a": entry("F32", [10**30], 0, 4)}, 4, "does not fit"),
        ({"a": entry("F32", [2**62, 4], 0, 0)}, 0, "does not fit"),
        ({"a": entry("F32", [-1], 0, -4)}, 4, "does not fit"),
        ({"a": entry("F32", [1.0], 0, 4)}, 4, "does not fit"),
        ({"a": entry("F32", [True], 0, 4)}, 4, "does not fit"),
        ({"a": entry("F32", [1] * 40, 0, 4)}, 4, "does not fit"),
        ({"a": entry("F32", [1], 4, 8)}, 8, "starts at byte 4"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 2, 6)}, 6, "starts at byte 2"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, 12, "starts at byte 8"),
        ({"a": entry("F32", [2], 0, 8)}, 4, "cut off"),
        ({"a": entry("F32", [1], 0, 4)}, 400, "cut off"),
        ({"a": entry("X9", [1], 0, 4)}, 4, "malformed"),
        ({"a": entry("F32", [1], "0", "4")}, 4, "does not fit"),
        ({"a": {"dtype": "F32", "shape": [1]}}, 4, "malformed"),
        ({"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}, 4, "malformed"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}}, 4, "malformed"),
        ({"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}, 4, "malformed"),
        ({"a": 7}, 4, "malformed"),
        ({"a": None}, 4, "malformed"),
    ],
)
def test_a_table_that_lies_is_refused(tmp_path: Path, table: dict[str, Any], payload: int, reason: str) -> None:
    path = tmp_path / "x.inn"
    forge(path, table, b"\0" * payload)
    with pytest.raises(InvalidCheckpointError, match=reason):
        read_tensors(path, verify=True)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too few"),
        (b"\x00" * 200, "does not start"),
        (b"\xff" * 200, "cut off or not a checkpoint"),
        (b"PK\x03\x04" + b"\0" * 300, r"cut off|not start"),
        ((2**62).to_bytes(8, "little") + b"{" * 200, "cut off or not a checkpoint"),
        ((150).to_bytes(8, "little") + b'{"__metadata__":{"sha256":"' + b"0" * 64 + b'"' + b"x" * 200, "not JSON"),
        ((92).to_bytes(8, "little") + b'{"__metadata__":{"sha256":"' + b"0" * 64 + b'"' + b"x" * 200, "not JSON"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "x.inn"
    path.write_bytes(data)
    with pytest.raises(InvalidCheckpointError, match=reason):
        read_tensors(path, verify=False)


def test_a_deeply_nested_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.inn"
    header = b'{"__metadata__":{"sha256":"' + b"0" * 64 + b'","inn":' + b"[" * 200_000
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InvalidCheckpointError, match="not JSON"):
        read_tensors(path, verify=False)


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(99, dtype=np.float32)}, path, metadata={"format": "pt"})
    with pytest.raises(InvalidCheckpointError, match="does not start with the header of a checkpoint"):
        read_tensors(path, verify=True)


def test_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpointError, match="No such file"):
        read_tensors(tmp_path / "missing.inn", verify=True)
    with pytest.raises(InvalidCheckpointError, match="directory"):
        read_tensors(tmp_path, verify=True)
    with pytest.raises(InvalidCheckpointError, match="No such file"):
        read_text(tmp_path / "missing.inn")


def test_unaligned_arrays_of_other_writers_are_aligned(tmp_path: Path) -> None:
    path = tmp_path / "x.inn"
    values = np.arange(3, dtype=np.float64)
    table = {"a": entry("U8", [1], 0, 1), "b": entry("F64", [3], 1, 25)}
    forge(path, table, b"\x05" + values.tobytes())
    found = read_tensors(path, verify=True).tensors["b"]
    np.testing.assert_array_equal(found, values)
    assert found.flags.aligned
    assert not found.flags.writeable
