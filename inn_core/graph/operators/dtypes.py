"""Element types: which ONNX type is which torch dtype, and how arrays and stored tensors become torch tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from inn_core.errors import ExternalDataError, InvalidOnnxError

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}
"""ONNX element type -> torch dtype, for the types torch computes with. Wider unsigned integers, complex, 4-bit and
8-bit float types are left out: torch stores some of them but has no arithmetic for them."""

FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""Element types whose initializers are weights."""


def type_name(element_type: int) -> str:
    """The ONNX name of an element type, such as `FLOAT16`; `type 99` when there is none."""
    names: dict[int, str] = {value: name for name, value in TensorProto.DataType.items()}
    return names.get(element_type, f"type {element_type}")


def tensor_from_array(array: NDArray[Any], device: str | torch.device = "cpu") -> Tensor:
    """A torch tensor with the values of a numpy array.

    Args:
        array: any shape; a dtype that torch knows, or `bfloat16` of ml_dtypes.
        device: where the tensor lives.

    Returns:
        A tensor that shares memory with a writable, contiguous array on the CPU, else a copy.
    """
    contiguous = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes 0-d arrays 1-d
    if not contiguous.flags.writeable:
        contiguous = contiguous.copy()
    if contiguous.dtype.name == "bfloat16":
        return torch.from_numpy(contiguous.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(contiguous).to(device)


def tensor_from_proto(proto: TensorProto, device: str | torch.device = "cpu") -> Tensor:
    """A torch tensor with the values of a stored ONNX tensor.

    Raises:
        ExternalDataError: its data is in another file.
        InvalidOnnxError: its element type is not in `DTYPES`, or its data does not fit its shape.
    """
    if proto.data_location == TensorProto.EXTERNAL:
        raise ExternalDataError(proto.name)
    if proto.data_type not in DTYPES:
        raise InvalidOnnxError(
            f"tensor '{proto.name}' has element type {type_name(proto.data_type)}; "
            f"known are {', '.join(type_name(known) for known in DTYPES)}: export the model with one of these",
            tensor=proto.name,
        )
    try:
        array = onnx.numpy_helper.to_array(proto)
    except (ValueError, TypeError) as exc:
        raise InvalidOnnxError(
            f"tensor '{proto.name}' does not hold the {list(proto.dims)} elements of its shape; export the model again",
            tensor=proto.name,
        ) from exc
    return tensor_from_array(array, device)
