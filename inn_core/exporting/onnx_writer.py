"""Stream an ONNX file: the small graph from the protobuf library, the weights straight from their arrays.

Fields of a protobuf message may be written one after the other, and repeated fields may be written in pieces, so the
weights never exist a second time in memory. The file is byte for byte what the protobuf library itself would write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from inn_core.arrays import Array
from inn_core.checkpoint.safetensors import bytes_of
from inn_core.errors import ArtifactTooLargeError
from inn_core.files import written_aside
from inn_core.graph.onnx_bytes import MAX_FILE_BYTES, graph_head, initializer_head


@dataclass(frozen=True)
class AssembledFile:
    """A written file: `digest` is `sha256:` plus hex of its bytes."""

    digest: str
    size_bytes: int


def write_onnx(model: onnx.ModelProto, weights: Mapping[str, Array], path: str | Path) -> AssembledFile:
    """Write a model with its weights; equal arguments give equal bytes.

    Args:
        model: the graph; initializers that it already has are kept, before the weights.
        weights: to add as initializers, in this order; names that the model does not define yet.
        path: target; replaced at once when everything is on the disk, never half-written.

    Returns:
        Digest and size of the file. Its initializers hold their values as raw data.

    Raises:
        ArtifactTooLargeError: the file would pass 2 GiB, the limit of the format.
        OSError: the folder is missing or the disk is full.
    """
    arrays = {name: _little_endian(array) for name, array in weights.items()}
    heads = {
        name: initializer_head(name, array.shape, helper.np_dtype_to_tensor_dtype(array.dtype), array.nbytes)
        for name, array in arrays.items()
    }
    before_graph, after_graph = _model_parts(model)
    before_weights, after_weights = _graph_parts(model.graph)
    graph_bytes = len(before_weights) + len(after_weights)
    graph_bytes += sum(len(heads[name]) + array.nbytes for name, array in arrays.items())
    start = before_graph + graph_head(graph_bytes) + before_weights
    total = len(before_graph) + len(graph_head(graph_bytes)) + graph_bytes + len(after_graph)
    if total > MAX_FILE_BYTES:
        raise ArtifactTooLargeError(
            f"the ONNX file would have {total:,} bytes; the format ends at {MAX_FILE_BYTES:,}: ask for a smaller size",
            size_bytes=total,
            limit_bytes=MAX_FILE_BYTES,
        )
    with written_aside(Path(path)) as writer:
        writer.write(start)
        for name, array in arrays.items():
            writer.write(heads[name])
            writer.write(bytes_of(array))
        writer.write(after_weights + after_graph)
    return AssembledFile(writer.finish(), writer.size_bytes)


def _little_endian(array: Array) -> Array:
    """ONNX raw data is little-endian and in row order; nothing is copied where it already is."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _model_parts(model: onnx.ModelProto) -> tuple[bytes, bytes]:
    """The fields of the model before and after the graph, in the order of their numbers."""
    graph_field = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
    before, after = onnx.ModelProto(), onnx.ModelProto()
    for field, value in model.ListFields():
        if field.number != graph_field:
            _copy_field_(before if field.number < graph_field else after, field.name, value, repeated=_is_list(value))
    return before.SerializeToString(deterministic=True), after.SerializeToString(deterministic=True)


def _graph_parts(graph: onnx.GraphProto) -> tuple[bytes, bytes]:
    """The fields of the graph up to its initializers, and after them."""
    initializer_field = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
    before, after = onnx.GraphProto(), onnx.GraphProto()
    for field, value in graph.ListFields():
        _copy_field_(
            before if field.number <= initializer_field else after, field.name, value, repeated=_is_list(value)
        )
    return before.SerializeToString(deterministic=True), after.SerializeToString(deterministic=True)


def _is_list(value: object) -> bool:
    return hasattr(value, "extend")


def _copy_field_(target: onnx.ModelProto | onnx.GraphProto, name: str, value: object, *, repeated: bool) -> None:
    if repeated:
        getattr(target, name).extend(value)
    elif hasattr(value, "DESCRIPTOR"):
        getattr(target, name).CopyFrom(value)
    else:
        setattr(target, name, value)
