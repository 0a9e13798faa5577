"""The key of the hub's administrators: one random secret in a file, compared in constant time."""

from __future__ import annotations

import contextlib
import hmac
import secrets
from pathlib import Path

from service.ground.files import make_private_folder, write_private_file
from service.signing.errors import InvalidAdminKeyError
from service.signing.keys import encode_base64url

KEY_BYTES = 32
MIN_LENGTH = 16
MAX_LENGTH = 1024
_SCHEME = "bearer"


class AdminKey:
    """A key of administrators; it never shows itself.

    Args:
        secret: `MIN_LENGTH` to `MAX_LENGTH` printable ASCII characters without spaces.

    Raises:
        InvalidAdminKeyError: it is no such text.
    """

    def __init__(self, secret: str) -> None:
        if not (MIN_LENGTH <= len(secret) <= MAX_LENGTH and secret.isascii() and secret.isprintable()) or " " in secret:
            raise InvalidAdminKeyError(
                f"the admin key needs {MIN_LENGTH} to {MAX_LENGTH} printable ASCII characters without spaces; "
                "set INN_ADMIN_KEY to one, or remove the file and let the hub make one"
            )
        self._secret = secret.encode()

    def __repr__(self) -> str:
        return "AdminKey(…)"

    @classmethod
    def load(cls, path: Path) -> AdminKey:
        """Read a key; space around it does not count.

        Raises:
            InvalidAdminKeyError: the file holds none.
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            content = file.read(MAX_LENGTH + 64)
        return cls(content.decode("ascii", errors="replace").strip())

    @classmethod
    def load_or_create(cls, path: Path) -> AdminKey:
        """Read a key, or write a new random one, mode 0600, when there is no file; of two at once, one writes."""
        if not path.exists():
            if not path.parent.exists():
                make_private_folder(path.parent)
            text = encode_base64url(secrets.token_bytes(KEY_BYTES)) + "\n"
            # Another process may have been faster: its key counts.
            with contextlib.suppress(FileExistsError):
                write_private_file(path, text.encode(), replace=False)
        return cls.load(path)

    @property
    def authorization(self) -> str:
        """Value of the header `Authorization` that this key opens routes with."""
        return f"Bearer {self._secret.decode()}"

    def check(self, authorization: str | None) -> None:
        """Check the header `Authorization` of a request, taking equally long for every wrong key of one length.

        Raises:
            InvalidAdminKeyError: it is missing, of another scheme, or has another key.
        """
        scheme, _, offered = (authorization or "").partition(" ")
        if scheme.lower() == _SCHEME and hmac.compare_digest(offered.strip().encode(errors="replace"), self._secret):
            return
        raise InvalidAdminKeyError(
            "this route is for administrators: send 'Authorization: Bearer KEY' with the key of the hub, "
            "which lies in its store in fleet/admin-key unless INN_ADMIN_KEY is set"
        )
