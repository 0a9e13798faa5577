"""Checks what a caller feeds to a graph against what the graph declares, naming the input that does not fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx
from torch import Tensor

from inn_core.errors import InvalidInputError
from inn_core.graph.operators.dtypes import DTYPES, FLOAT_TYPES, type_name


def check_inputs(declared: Mapping[str, onnx.ValueInfoProto], given: Mapping[str, Tensor]) -> None:
    """Checks names, element types and ranks; sizes are left to the operators.

    A float input may have any float precision, so that a float32 network can be run in float64 with weights to match.

    Args:
        declared: graph input name -> its declaration.
        given: graph input name -> tensor.

    Raises:
        InvalidInputError: an input is missing or unknown, or has another element type or rank than declared.
    """
    unknown = sorted(set(given) - set(declared))
    missing = [name for name in declared if name not in given]
    if unknown or missing:
        raise InvalidInputError(
            f"the graph reads {_listed(declared)}; missing: {_listed(missing)}, unknown: {_listed(unknown)}",
            missing=missing,
            unknown=unknown,
        )
    for name, value in declared.items():
        _check_input(value, given[name])


def _check_input(declared: onnx.ValueInfoProto, tensor: Tensor) -> None:
    kind = declared.type.tensor_type
    expected = DTYPES.get(kind.elem_type)
    fits = tensor.dtype == expected or (kind.elem_type in FLOAT_TYPES and tensor.is_floating_point())
    if not fits:
        raise InvalidInputError(
            f"graph input '{declared.name}' has element type {type_name(kind.elem_type)}, found {tensor.dtype}; "
            f"convert it{f' with .to({expected})' if expected else ' or export the model with a known type'}",
            input=declared.name,
        )
    if kind.HasField("shape") and len(kind.shape.dim) != tensor.dim():
        sizes = [dim.dim_param or dim.dim_value or "?" for dim in kind.shape.dim]
        raise InvalidInputError(
            f"graph input '{declared.name}' has {len(sizes)} axes {sizes}, found shape {list(tensor.shape)}; "
            "reshape it",
            input=declared.name,
        )


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
