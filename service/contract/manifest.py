"""The two inner parts of a release: the manifest of its artifact and the self-test, as far as nodes rely on them.

A manifest may have further members (a hub that is newer than its nodes adds some); those that are known are checked.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from service.contract.reading import Count, Digest, Name, Positive, read
from service.signing.errors import InvalidDocumentError

MAX_MEMBERS = 64
MAX_TENSORS = 64
MAX_RANK = 16
MAX_GROUPS = 4096
MAX_NAME_LENGTH = 512
MAX_SELF_TEST_ROWS = 64
MAX_SELF_TEST_VALUES = 64

_FORBIDDEN = ("url", "cached")

MemberName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
Word = Annotated[str, Meta(max_length=64, pattern=r"^[a-z][a-z0-9-]*\Z")]
Number = float | None
NotNegative = Annotated[float, Meta(ge=0)]
# A pattern, so that the message lists what is allowed.
DataType = Annotated[
    str, Meta(pattern=r"^(float16|float32|float64|int8|int16|int32|int64|uint8|uint16|uint32|uint64|bool)\Z")
]


class Tensor(Struct, frozen=True, forbid_unknown_fields=True):
    """A graph input or output; a size may be null, a shape too."""

    name: MemberName
    dtype: DataType
    shape: Annotated[list[Count | None], Meta(max_length=MAX_RANK)] | None


Tensors = Annotated[list[Tensor], Meta(min_length=1, max_length=MAX_TENSORS)]


class ManifestBudget(Struct, frozen=True):
    """What the artifact was made for; units of newer hubs are read too."""

    unit: Annotated[str, Meta(max_length=32, pattern=r"^[a-z][a-z_]*\Z")]
    value: NotNegative


class Feasible(Struct, frozen=True, forbid_unknown_fields=True):
    """The smallest and the greatest size of the network, in the unit of the budget."""

    min: NotNegative
    max: NotNegative


class Manifest(Struct, frozen=True):
    """What is known of an artifact."""

    model: Name
    checkpoint: Digest
    digest: Digest
    params: Count
    macs: Count
    bytes: Positive
    quality: Word
    inputs: Tensors
    outputs: Tensors
    budget: ManifestBudget | UnsetType = UNSET
    method: Word | UnsetType = UNSET
    group_sizes: Annotated[dict[MemberName, Any], Meta(max_length=MAX_GROUPS)] | UnsetType = UNSET
    multiple_of: Positive | UnsetType = UNSET
    opset: Positive | UnsetType = UNSET
    parity: Number | UnsetType = UNSET
    agreement: Number | UnsetType = UNSET
    held_out: Number | UnsetType = UNSET
    feasible: Feasible | UnsetType = UNSET
    full_size: bool | UnsetType = UNSET
    build_key: Digest | UnsetType = UNSET


class SelfTest(Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs by seed, and the outputs that they should give."""

    seed: Annotated[str, Meta(max_length=128, pattern=r"^([0-9a-f]{2})+\Z")]
    rows: Annotated[int, Meta(ge=1, le=MAX_SELF_TEST_ROWS)]
    outputs: Annotated[dict[MemberName, Any], Meta(max_length=MAX_TENSORS)] | None
    tolerance: Annotated[float, Meta(ge=0, le=1)]


class ExpectedOutput(Struct, frozen=True, forbid_unknown_fields=True):
    """The shape of an output, and values from it."""

    shape: Annotated[list[Count], Meta(max_length=MAX_RANK)]
    values: Annotated[list[float], Meta(max_length=MAX_SELF_TEST_VALUES)] | None


def check_manifest(value: dict[str, Any], where: str) -> None:
    """Check that what the manifest of an artifact says can be used.

    Raises:
        InvalidDocumentError: a member is missing or wrong; `url` and `cached` belong to an answer, not to a release.
    """
    read(value, Annotated[dict[str, Any], Meta(max_length=MAX_MEMBERS)], where)
    for member in _FORBIDDEN:
        if member in value:
            raise InvalidDocumentError(f"{where}/{member}", "a release never says where its artifact lies")
    manifest: Manifest = read(value, Manifest, where)
    if budget := value.get("budget"):
        read(budget, Annotated[dict[str, Any], Meta(max_length=8)], f"{where}/budget")
    # One by one: msgspec does not say which entry of a mapping is wrong.
    for group, size in (manifest.group_sizes or {}).items():
        read(size, Count, f"{where}/group_sizes/{group[:80]}")


def check_self_test(value: dict[str, Any], where: str) -> None:
    """Check that a node can run a self-test.

    Raises:
        InvalidDocumentError: a member is missing, unknown or wrong.
    """
    self_test: SelfTest = read(value, SelfTest, where)
    for tensor, output in (self_test.outputs or {}).items():
        read(output, ExpectedOutput | None, f"{where}/outputs/{tensor[:80]}")
