"""Names and digests: checked by pattern before any path is built from them."""

from __future__ import annotations

import re
from pathlib import Path

from service.ground.errors import InvalidRequestError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"

# `$` matches before a final newline, so whole strings are matched instead.
_NAME = re.compile(NAME_PATTERN)
_DIGEST = re.compile(DIGEST_PATTERN)


def is_name(value: object) -> bool:
    """Whether `value` may name a model or a node."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def is_digest(value: object) -> bool:
    """Whether `value` is `sha256:` and 64 lowercase hexadecimal digits."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def check_name(value: object, pointer: str = "/model") -> str:
    """The name, when it is one.

    Args:
        value: what a client sent.
        pointer: JSON pointer of the place, for the error.

    Raises:
        InvalidRequestError: it does not match `NAME_PATTERN`.
    """
    if not is_name(value):
        raise InvalidRequestError.at(
            pointer,
            f"{_shown(value)} is no name: use 1 to 64 letters, digits, dots, dashes and underscores, "
            "a letter or digit first",
        )
    return str(value)


def check_digest(value: object, pointer: str = "/digest") -> str:
    """The digest, when it is one.

    Args:
        value: what a client sent.
        pointer: JSON pointer of the place, for the error.

    Raises:
        InvalidRequestError: it does not match `DIGEST_PATTERN`.
    """
    if not is_digest(value):
        raise InvalidRequestError.at(
            pointer, f"{_shown(value)} is no digest: write 'sha256:' and 64 lowercase hexadecimal digits"
        )
    return str(value)


def digest_path(root: Path, digest: str, suffix: str = "") -> Path:
    """Where a file of this digest lies under `root`: `ab/abcdef…` by its first two digits, with `suffix`.

    Raises:
        InvalidRequestError: `digest` is none, or the path would leave `root`.
    """
    hexadecimal = check_digest(digest).removeprefix("sha256:")
    base = root.resolve()
    path = base / hexadecimal[:2] / f"{hexadecimal}{suffix}"
    if not path.parent.resolve().is_relative_to(base):
        raise InvalidRequestError.at("/digest", f"{digest} leads out of the store")
    return path


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
