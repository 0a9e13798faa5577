"""How documents are read into structs: exact types, lengths and ranges bounded, errors that name the member."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from service.contract.sizes import LARGEST_VALUE
from service.ground.names import DIGEST_PATTERN, NAME_PATTERN
from service.signing.errors import InvalidDocumentError
from service.signing.fields import MAX_SECONDS

T = TypeVar("T")


def whole(pattern: str) -> str:
    r"""The pattern, for whole texts: `$` matches before a final newline, `\Z` does not."""
    return rf"{pattern.removesuffix('$')}\Z"


Name = Annotated[str, Meta(max_length=64, pattern=whole(NAME_PATTERN))]
"""Of a model or a node."""

Digest = Annotated[str, Meta(max_length=71, pattern=whole(DIGEST_PATTERN))]
Count = Annotated[int, Meta(ge=0, le=LARGEST_VALUE)]
Positive = Annotated[int, Meta(ge=1, le=LARGEST_VALUE)]
Time = Annotated[int, Meta(ge=0, le=MAX_SECONDS)]
"""Seconds since the epoch."""


def read(value: Any, kind: type[T] | Any, where: str) -> T:
    """The value as an instance of `kind`. `True` is no integer here, and `1.0` is none either.

    Args:
        value: JSON, checked by `check_plain`.
        kind: a struct, or any type that msgspec knows.
        where: the place of the value, for messages.

    Raises:
        InvalidDocumentError: it is none; the place is that of the wrong member, or of the object that lacks one.
    """
    try:
        result: T = msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise _refusal(value, where, str(exc)) from None
    return result


def check_type(signed: dict[str, Any], expected: str) -> None:
    """Check the member `type` of a document.

    Raises:
        InvalidDocumentError: it is another one, or missing.
    """
    if "type" not in signed:
        raise InvalidDocumentError(expected, "the member 'type' is missing")
    if signed["type"] != expected:
        raise InvalidDocumentError(
            f"{expected}/type", f"{_shown(signed['type'])} is not allowed; expected '{expected}'"
        )


def check_lifetime(issued: int, expires: int, where: str) -> None:
    """Check that a document expires after it was issued.

    Raises:
        InvalidDocumentError: it does not.
    """
    if expires <= issued:
        raise InvalidDocumentError(f"{where}/expires", f"{expires} is not after issued, {issued}")


def _refusal(value: Any, where: str, message: str) -> InvalidDocumentError:
    """What msgspec says, `problem - at `$.member[0]``, with the place as a path and the value that stands there."""
    problem, _, path = message.rpartition(" - at `")
    for member, position in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        where = f"{where}/{member or position}"
        try:
            value = value[member or int(position)]
        except (LookupError, TypeError):
            break
    problem = problem or message
    for lead, what in (("Object missing required field", "is missing"), ("Object contains", "is not known here")):
        if problem.startswith(lead):
            return InvalidDocumentError(where, f"the member '{problem.partition('`')[2][:-1][:80]}' {what}")
    expected = problem.removeprefix("Expected ").partition(", got ")[0].replace("`", "")[:200]
    if path.startswith("key`"):
        return InvalidDocumentError(where, f"a member name is not allowed; expected {expected}")
    return InvalidDocumentError(where, f"{_shown(value)} is not allowed; expected {expected}")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"an object of {len(value)}" if isinstance(value, dict) else f"an array of {len(value)}"
    shown = repr(value[:80] if isinstance(value, str) else value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
