"""The two inner parts of a release: the manifest of its artifact and the self-test, as far as nodes rely on them.

A manifest may have further members (a hub that is newer than its nodes adds some); those that are known are checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from service.signing.errors import InvalidDocumentError
from service.signing.fields import array, boolean, choice, digest, integer, mapping, members, name, number, text

MAX_MEMBERS = 64
MAX_TENSORS = 64
MAX_RANK = 16
MAX_GROUPS = 4096
MAX_NAME_LENGTH = 512
MAX_SELF_TEST_ROWS = 64
MAX_SELF_TEST_VALUES = 64

DTYPES = (
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)

_REQUIRED = ("model", "checkpoint", "digest", "params", "macs", "bytes", "quality", "inputs", "outputs")
_FORBIDDEN = ("url", "cached")


def check_manifest(value: Any, where: str) -> dict[str, Any]:
    """The manifest of an artifact, when what it says can be used.

    Raises:
        InvalidDocumentError: a member is missing or wrong; `url` and `cached` belong to an answer, not to a release.
    """
    fields = mapping(value, where, maximum=MAX_MEMBERS)
    for member in _REQUIRED:
        if member not in fields:
            raise InvalidDocumentError(where, f"the member '{member}' is missing")
    for member in _FORBIDDEN:
        if member in fields:
            raise InvalidDocumentError(f"{where}/{member}", "a release never says where its artifact lies")
    for member, check in _CHECKS.items():
        if member in fields:
            check(fields[member], f"{where}/{member}")
    return fields


def check_self_test(value: Any, where: str) -> dict[str, Any]:
    """The self-test, when a node can run it.

    Raises:
        InvalidDocumentError: a member is missing, unknown or wrong.
    """
    fields = members(value, where, required=("seed", "rows", "outputs", "tolerance"))
    text(fields["seed"], f"{where}/seed", maximum_length=128, pattern=r"^([0-9a-f]{2})+$")
    integer(fields["rows"], f"{where}/rows", minimum=1, maximum=MAX_SELF_TEST_ROWS)
    number(fields["tolerance"], f"{where}/tolerance", minimum=0, maximum=1)
    if fields["outputs"] is None:
        return fields
    outputs = mapping(fields["outputs"], f"{where}/outputs", maximum=MAX_TENSORS)
    for tensor, output in outputs.items():
        place = f"{where}/outputs/{tensor[:80]}"
        text(tensor, f"{where}/outputs", maximum_length=MAX_NAME_LENGTH)
        if output is None:
            continue
        expected = members(output, place, required=("shape", "values"))
        for size in array(expected["shape"], f"{place}/shape", maximum=MAX_RANK):
            integer(size, f"{place}/shape")
        values = expected["values"]
        if values is not None:
            for entry in array(values, f"{place}/values", maximum=MAX_SELF_TEST_VALUES):
                number(entry, f"{place}/values")
    return fields


def check_tensors(value: Any, where: str) -> None:
    """Check a list of graph inputs or outputs: `{"name", "dtype", "shape"}`, a size may be null, a shape too."""
    for position, tensor in enumerate(array(value, where, minimum=1, maximum=MAX_TENSORS)):
        place = f"{where}/{position}"
        fields = members(tensor, place, required=("name", "dtype", "shape"))
        text(fields["name"], f"{place}/name", maximum_length=MAX_NAME_LENGTH)
        choice(fields["dtype"], f"{place}/dtype", allowed=DTYPES)
        if fields["shape"] is not None:
            for size in array(fields["shape"], f"{place}/shape", maximum=MAX_RANK):
                if size is not None:
                    integer(size, f"{place}/shape")


def _check_budget(value: Any, where: str) -> None:
    fields = mapping(value, where, maximum=8)
    for member in ("unit", "value"):
        if member not in fields:
            raise InvalidDocumentError(where, f"the member '{member}' is missing")
    text(fields["unit"], f"{where}/unit", maximum_length=32, pattern=r"^[a-z][a-z_]*$")
    number(fields["value"], f"{where}/value", minimum=0)


def _check_group_sizes(value: Any, where: str) -> None:
    for group, size in mapping(value, where, maximum=MAX_GROUPS).items():
        text(group, where, maximum_length=MAX_NAME_LENGTH)
        integer(size, f"{where}/{group[:80]}")


def _check_feasible(value: Any, where: str) -> None:
    fields = members(value, where, required=("min", "max"))
    number(fields["min"], f"{where}/min", minimum=0)
    number(fields["max"], f"{where}/max", minimum=0)


def _number_or_null(value: Any, where: str) -> None:
    if value is not None:
        number(value, where)


def _count(value: Any, where: str) -> None:
    integer(value, where)


def _size(value: Any, where: str) -> None:
    integer(value, where, minimum=1)


def _word(value: Any, where: str) -> None:
    text(value, where, maximum_length=64, pattern=r"^[a-z][a-z0-9-]*$")


_CHECKS: dict[str, Callable[[Any, str], object]] = {
    "model": name,
    "checkpoint": digest,
    "digest": digest,
    "budget": _check_budget,
    "params": _count,
    "macs": _count,
    "bytes": _size,
    "quality": _word,
    "method": _word,
    "group_sizes": _check_group_sizes,
    "multiple_of": _size,
    "inputs": check_tensors,
    "outputs": check_tensors,
    "opset": _size,
    "parity": _number_or_null,
    "agreement": _number_or_null,
    "held_out": _number_or_null,
    "feasible": _check_feasible,
    "full_size": boolean,
    "build_key": digest,
}
