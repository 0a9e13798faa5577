"""The bytes of an ONNX file around the weights: protobuf lengths and the head of an initializer record.

Only what streaming a file and predicting its size need; everything else is left to the protobuf library.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

MAX_FILE_BYTES = 2**31 - 1  # protobuf's own limit for one message

_LENGTH_DELIMITED = 2
_GRAPH_FIELD = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER_FIELD = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA_FIELD = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


def varint(value: int) -> bytes:
    """A non-negative integer in protobuf's variable-length form, 1 to 10 bytes."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def initializer_head(name: str, shape: Sequence[int], element_type: int, raw_bytes: int) -> bytes:
    """Everything of a `GraphProto.initializer` record up to its raw data, which must follow directly.

    Args:
        name: of the initializer.
        shape: its dimensions.
        element_type: `onnx.TensorProto.DataType`.
        raw_bytes: length of the raw data.

    Returns:
        Bytes that never get longer when a dimension or `raw_bytes` gets smaller.
    """
    # TensorProto's fields in the order of their numbers, as the protobuf library writes them: raw_data comes last.
    body: bytes = onnx.TensorProto(dims=shape, data_type=element_type, name=name).SerializeToString()
    body += _prefix(_RAW_DATA_FIELD, raw_bytes)
    return _prefix(_INITIALIZER_FIELD, len(body) + raw_bytes) + body


def graph_head(graph_bytes: int) -> bytes:
    """The field of a `ModelProto` that announces a graph of so many bytes."""
    return _prefix(_GRAPH_FIELD, graph_bytes)


def _prefix(field: int, length: int) -> bytes:
    return varint(field << 3 | _LENGTH_DELIMITED) + varint(length)
