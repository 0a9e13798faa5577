"""Read an ONNX file that may come from anywhere: size, structure and self-containment are checked before use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from inn_core.errors import (
    ExternalDataError,
    GraphTooLargeError,
    InvalidOnnxError,
    UnsupportedOperatorError,
    first_line,
)
from inn_core.graph.node import default_opset

MAX_FILE_BYTES = 2**31 - 1  # the limit of the protobuf format
MAX_NODES = 100_000
MAX_INITIALIZERS = 100_000
OLDEST_OPSET = 13  # older models are converted to it; axes became inputs of Squeeze, Unsqueeze and ReduceSum there


def read_onnx(source: Path | bytes) -> onnx.ModelProto:
    """Parse and check an ONNX model.

    Args:
        source: a file, or its bytes.

    Returns:
        The model at opset 13 or newer, without doc strings and metadata (exporters put stack traces with source
        paths there), nodes in topological order.

    Raises:
        InvalidOnnxError: not ONNX, truncated, cyclic, no opset of the default domain, or against the specification.
        ExternalDataError: an initializer keeps its data in another file.
        GraphTooLargeError: file, nodes or initializers over the limits of this module.
        UnsupportedOperatorError: control flow (a node with a subgraph), model functions or training information.
    """
    if isinstance(source, Path):
        size = source.stat().st_size
        if size > MAX_FILE_BYTES:
            raise GraphTooLargeError("bytes", size, MAX_FILE_BYTES)
        data = source.read_bytes()
    else:
        data = source
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InvalidOnnxError(f"the file is not an ONNX model, or it is cut off ({len(data):,} bytes read)") from error
    if not model.graph.node or not model.graph.output or model.ir_version == 0:
        raise InvalidOnnxError(f"the file is not an ONNX model: no graph found in {len(data):,} bytes")
    _check_limits(model)
    _strip(model)
    _check_text(model)
    _check_self_contained(model)
    opset = default_opset(model)
    if opset < OLDEST_OPSET:
        model = _converted(model, opset)
    _check(model)
    return model


def _check_limits(model: onnx.ModelProto) -> None:
    if len(model.graph.node) > MAX_NODES:
        raise GraphTooLargeError("nodes", len(model.graph.node), MAX_NODES)
    if len(model.graph.initializer) > MAX_INITIALIZERS:
        raise GraphTooLargeError("initializers", len(model.graph.initializer), MAX_INITIALIZERS)


def _check_text(model: onnx.ModelProto) -> None:
    """Names must be UTF-8; protobuf lets other bytes pass and fails where they are used."""
    graph = model.graph
    try:
        for text in _all_text(graph):
            text.encode()
    except (UnicodeError, AttributeError) as error:
        raise InvalidOnnxError("a name in the model is not valid UTF-8 text; the file is damaged") from error


def _all_text(graph: onnx.GraphProto) -> Iterator[str]:
    yield graph.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    yield from (tensor.name for tensor in graph.initializer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)


def _check_self_contained(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        _check_tensor(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise UnsupportedOperatorError(
                    node.name or node.output[0], node.op_type, "control flow is not supported"
                )
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise UnsupportedOperatorError(
                    node.name or node.output[0], node.op_type, "sparse tensors are not supported"
                )
            for tensor in (attribute.t, *attribute.tensors):
                _check_tensor(tensor)
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise UnsupportedOperatorError(name, "sparse_initializer", "sparse weights are not supported")
    if model.functions:
        raise UnsupportedOperatorError(model.functions[0].name, "function", "model-local functions are not supported")


def _check_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ExternalDataError(tensor.name)
    if any(dim < 0 for dim in tensor.dims):
        raise InvalidOnnxError(f"initializer '{tensor.name}' declares a negative size {list(tensor.dims)}")
    elements = 1
    for dim in tensor.dims:
        elements *= dim
    if tensor.HasField("raw_data"):
        bits = _element_bits(tensor.data_type)
        if bits and (elements * bits + 7) // 8 != len(tensor.raw_data):
            raise InvalidOnnxError(
                f"initializer '{tensor.name}' declares {elements:,} elements but holds {len(tensor.raw_data):,} bytes"
            )


def _element_bits(data_type: int) -> int:
    try:
        name = onnx.TensorProto.DataType.Name(data_type)
    except ValueError as error:
        raise InvalidOnnxError(f"unknown tensor element type {data_type}") from error
    if name in ("STRING", "UNDEFINED"):
        return 0
    if name.endswith("INT4") or name.startswith("FLOAT4"):
        return 4
    if name.endswith("INT2"):
        return 2
    return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize * 8)


def _strip(model: onnx.ModelProto) -> None:
    """Doc strings and metadata carry source paths of the machine that exported; nothing of them is needed."""
    graph = model.graph
    for message in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        message.ClearField("doc_string")
        if "metadata_props" in message.DESCRIPTOR.fields_by_name:
            message.ClearField("metadata_props")
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
        if "device_configurations" in node.DESCRIPTOR.fields_by_name:
            node.ClearField("device_configurations")
    model.ClearField("training_info")
    model.ClearField("producer_version")
    graph.ClearField("quantization_annotation")


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    from onnx import shape_inference, version_converter

    refusals = (
        RuntimeError,
        ValueError,
        onnx.checker.ValidationError,
        shape_inference.InferenceError,
        version_converter.ConvertError,
    )
    try:
        return version_converter.convert_version(model, OLDEST_OPSET)
    except refusals as error:
        raise InvalidOnnxError(
            f"the model uses opset {opset} and cannot be converted to opset {OLDEST_OPSET}: {first_line(error)}; "
            f"export it again with opset {OLDEST_OPSET} or newer"
        ) from error


def _check(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        try:
            numpy_helper.to_array(tensor) if tensor.data_type != onnx.TensorProto.STRING else None
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidOnnxError(f"initializer '{tensor.name}' cannot be read: {first_line(error)}") from error
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise InvalidOnnxError(f"the model breaks the ONNX specification: {first_line(error)}") from error
    except (ValueError, RuntimeError) as error:  # check_model serialises; over 2 GiB it cannot
        raise InvalidOnnxError(f"the model cannot be checked: {first_line(error)}") from error
