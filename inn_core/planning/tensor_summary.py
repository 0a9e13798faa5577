"""What manifests and descriptions say of a graph: its inputs, its outputs, its operator set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
from onnx import helper


def describe_tensors(values: Iterable[onnx.ValueInfoProto]) -> list[dict[str, Any]]:
    """Graph inputs or outputs for JSON.

    Returns:
        `{"name", "dtype", "shape"}` in the order of `values`: the dtype is NumPy's name (`float32`), an axis of any
        size is None, and so is the shape where the graph declares none.
    """
    return [_describe_tensor(value) for value in values]


def _describe_tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = [int(axis.dim_value) if axis.HasField("dim_value") else None for axis in tensor.shape.dim]
    return {"name": value.name, "dtype": str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)), "shape": shape}
