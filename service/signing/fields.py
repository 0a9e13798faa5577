"""Strict readers of the members of a document: exact types, known members only, every length and range bounded.

Each takes the value and where it stands (for the message) and raises `InvalidDocumentError` for anything else. `True`
is no integer here, and `1.0` is none either.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, Never

from service.signing.errors import InvalidDocumentError
from service.signing.keys import is_key_id

MAX_INTEGER = 2**53 - 1
"""The largest integer that every reader of JSON holds exactly."""

MAX_SECONDS = 253_402_300_799
"""The last second of the year 9999; a later time is a mistake."""


def members(value: Any, where: str, *, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """The object, when it has all `required` members and none but those and the `optional` ones."""
    if type(value) is not dict:
        _refuse(value, where, "an object")
    found = dict(value)
    missing = [name for name in required if name not in found]
    if missing:
        raise InvalidDocumentError(where, f"the member '{missing[0]}' is missing")
    unknown = sorted(set(found) - set(required) - set(optional))
    if unknown:
        raise InvalidDocumentError(where, f"the member {_shown(unknown[0])} is not known here")
    return found


def array(value: Any, where: str, *, minimum: int = 0, maximum: int) -> list[Any]:
    """The array, when its length is within bounds."""
    if type(value) is not list:
        _refuse(value, where, "an array")
    if not minimum <= len(value) <= maximum:
        raise InvalidDocumentError(where, f"it has {len(value)} entries, {minimum} to {maximum} are allowed")
    return list(value)


def integer(value: Any, where: str, *, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
    """The integer, when it is within bounds."""
    if type(value) is not int or not minimum <= value <= maximum:
        _refuse(value, where, f"an integer from {minimum} to {maximum}")
    return int(value)


def text(value: Any, where: str, *, maximum_length: int, pattern: str | None = None) -> str:
    """The text, when it is not empty, short enough, and the whole of it matches the pattern."""
    if type(value) is not str or not 1 <= len(value) <= maximum_length:
        _refuse(value, where, f"a text of 1 to {maximum_length} characters")
    # `$` matches before a final newline, so whole strings are matched instead.
    if pattern is not None and re.fullmatch(pattern, value) is None:
        _refuse(value, where, f"a text that matches {pattern}")
    return str(value)


def choice(value: Any, where: str, *, allowed: Sequence[str]) -> str:
    """The text, when it is one of those allowed."""
    if type(value) is not str or value not in allowed:
        _refuse(value, where, " or ".join(f"'{name}'" for name in allowed))
    return str(value)


def key_id(value: Any, where: str) -> str:
    """The id of a key."""
    if not is_key_id(value):
        _refuse(value, where, "the id of a key, 16 digits 0-9a-f")
    return str(value)


def lifetime(issued: Any, expires: Any, where: str) -> tuple[int, int]:
    """Two times in seconds since the epoch, the second one later."""
    first = integer(issued, f"{where}/issued", maximum=MAX_SECONDS)
    last = integer(expires, f"{where}/expires", maximum=MAX_SECONDS)
    if last <= first:
        raise InvalidDocumentError(f"{where}/expires", f"{last} is not after issued, {first}")
    return first, last


def _refuse(value: Any, where: str, wanted: str) -> Never:
    raise InvalidDocumentError(where, f"{_shown(value)} is not allowed; expected {wanted}")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    shown = repr(value[:80] if isinstance(value, str) else value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
