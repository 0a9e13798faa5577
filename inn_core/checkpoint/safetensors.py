"""Named arrays and text in one file, in the safetensors layout, with a digest of the whole file inside.

Any safetensors library reads these files. We write and read them here because that library copies every array on
reading, orders its metadata at random (equal networks must give equal files) and cannot hash while it writes.

Layout: eight bytes with the length of the header (little-endian), the header as JSON, the arrays back to back. The
header starts with the digest: SHA-256 of the file in which those 64 characters are zeros. So a flipped byte is found
wherever it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from inn_core.arrays import Array
from inn_core.errors import DigestMismatchError, InvalidCheckpointError
from inn_core.files import written_aside

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
MAX_RANK = 32
ALIGNMENT_BYTES = 64

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_START = b'{"__metadata__":{"sha256":"'
_DIGEST_AT = 8 + len(_START)
_NO_DIGEST = b"0" * 64


@dataclass(frozen=True)
class TensorFile:
    """What a file holds; arrays are read-only views of the mapped file, text is as it was written."""

    text: str
    tensors: Mapping[str, Array]


def write_tensors(path: Path, tensors: Mapping[str, Array], text: str) -> str:
    """Write arrays and a text; equal input gives equal bytes, whatever the order of `tensors`.

    Returns:
        Digest of the file's bytes, `sha256:` plus hex.

    Raises:
        TypeError: an array has a dtype that the format does not know.
        OSError: the file cannot be written.
    """
    # Wide items first, so that every array starts at a multiple of its item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    arrays = [_plain(name, tensors[name]) for name in names]
    table: dict[str, Any] = {}
    offset = 0
    for name, array in zip(names, arrays, strict=True):
        end = offset + array.nbytes
        table[name] = {"dtype": _CODES[array.dtype], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    body = b'","inn":' + _json(text) + b"}" + b"".join(
        b"," + _json(name) + b":" + _json(entry) for name, entry in table.items()
    ) + b"}"  # fmt: skip
    length = len(_START) + len(_NO_DIGEST) + len(body)
    padding = -(8 + length) % ALIGNMENT_BYTES
    body += b" " * padding
    lead = (length + padding).to_bytes(8, "little") + _START
    if length + padding > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length:,} bytes passes the limit of {MAX_HEADER_BYTES:,}")
    inner = hashlib.sha256(lead + _NO_DIGEST + body)
    for array in arrays:
        inner.update(bytes_of(array))
    with written_aside(path) as writer:
        writer.write(lead + inner.hexdigest().encode() + body)
        for array in arrays:
            writer.write(bytes_of(array))
    return writer.finish()


def read_tensors(path: Path, *, verify: bool) -> TensorFile:
    """Map a file; nothing is copied.

    Args:
        path: the file. It must not be changed in place while the arrays are in use.
        verify: check the digest inside, which reads the whole file once.

    Raises:
        InvalidCheckpointError: unreadable, cut off, or not in this layout.
        DigestMismatchError: the bytes are not those that were written.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < _DIGEST_AT + len(_NO_DIGEST):
                raise invalid(path, f"it has {size} bytes, too few for any checkpoint")
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise invalid(path, f"{error.strerror or error}") from error
    header_bytes, header = _header(path, data[:8], size, lambda end: bytes(data[8:end]))
    if verify:
        _verify(path, data)
    payload = data[8 + header_bytes :]
    text, table = _split(path, header)
    _check_table(path, table, len(payload))
    return TensorFile(text, {name: _view(payload, entry) for name, entry in table.items()})


def read_text(path: Path) -> str:
    """Only the text of a file, reading its header alone; raises InvalidCheckpointError as `read_tensors` does."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            _, header = _header(path, file.read(8), size, lambda end: file.read(end - 8))
    except OSError as error:
        raise invalid(path, f"{error.strerror or error}") from error
    return _split(path, header)[0]


def bytes_of(array: Array) -> memoryview:
    """The bytes of a C-contiguous array without a copy, for any dtype and rank."""
    return array.reshape(-1).view(np.uint8).data


def invalid(path: Path, reason: str) -> InvalidCheckpointError:
    """The error that says why a file is no usable checkpoint."""
    return InvalidCheckpointError(
        f"'{path.name}' is not a usable checkpoint: {reason}; fetch or import it again", file=path.name, reason=reason
    )


def _plain(name: str, array: Array) -> Array:
    """The array as it lies in the file: contiguous, little-endian, of a known dtype."""
    dtype = array.dtype.newbyteorder("<") if sys.byteorder == "big" else array.dtype.newbyteorder("=")
    if dtype not in _CODES:
        known = ", ".join(str(d) for d in _CODES)
        raise TypeError(f"array '{name}' has dtype {array.dtype}, which a checkpoint cannot hold; use one of {known}")
    return np.asarray(array, dtype=dtype, order="C")


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _header(
    path: Path, lead: bytes | memoryview, size: int, read: Callable[[int], bytes]
) -> tuple[int, dict[str, Any]]:
    length = int.from_bytes(lead, "little")
    if len(lead) < 8 or length > MAX_HEADER_BYTES or 8 + length > size:
        raise invalid(path, f"it is cut off or not a checkpoint: {size:,} bytes with a header of {length:,}")
    raw = read(8 + length)
    if not re.match(re.escape(_START) + rb"[0-9a-f]{64}\"", raw):
        raise invalid(path, "it does not start with the header of a checkpoint")
    try:
        header = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise invalid(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise invalid(path, "its header is not a JSON object")
    return length, header


def _verify(path: Path, data: memoryview) -> None:
    end = _DIGEST_AT + len(_NO_DIGEST)
    expected = bytes(data[_DIGEST_AT:end]).decode("ascii", "replace")
    found = hashlib.sha256(data[:_DIGEST_AT])
    found.update(_NO_DIGEST)
    found.update(data[end:])
    if found.hexdigest() != expected:
        raise DigestMismatchError(f"checkpoint '{path.name}'", f"sha256:{expected}", f"sha256:{found.hexdigest()}")


def _split(path: Path, header: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    metadata = header.pop("__metadata__", None)
    text = metadata.get("inn") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise invalid(path, "its header has no 'inn' entry, so it is a safetensors file but not a checkpoint")
    return text, header


def _check_table(path: Path, table: Mapping[str, Any], payload_bytes: int) -> None:
    """Every entry is well formed and the arrays fill the payload without holes or overlap."""
    spans = []
    for name, entry in table.items():
        try:
            dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            integers = all(type(value) is int and value >= 0 for value in (*shape, begin, end))
        except (KeyError, TypeError, ValueError) as error:
            raise invalid(path, f"the entry of array '{name}' is malformed") from error
        if not integers or len(shape) > MAX_RANK or math.prod(shape) * dtype.itemsize != end - begin:
            raise invalid(path, f"array '{name}' declares shape {shape}, which does not fit bytes {begin} to {end}")
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise invalid(path, f"array '{name}' starts at byte {begin:,} of the data, not at {position:,}")
        position = end
    if position != payload_bytes:
        raise invalid(path, f"it is cut off: {payload_bytes:,} bytes of data where {position:,} belong")


def _view(payload: memoryview, entry: Mapping[str, Any]) -> Array:
    dtype = _DTYPES[entry["dtype"]]
    begin, end = entry["data_offsets"]
    array = np.frombuffer(payload[begin:end], dtype=dtype).reshape(entry["shape"])
    if not array.flags.aligned:
        array = array.copy()
        array.flags.writeable = False
    return array
