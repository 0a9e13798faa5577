"""Ed25519 keys: made, read, written, named; public ones travel as `ed25519:` and base64url.

The id of a key is the first 16 hex digits of the SHA-256 of its 32 public bytes: a name to find it by, never a proof.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from service.ground.files import write_private_file
from service.signing.errors import InvalidKeyError

PUBLIC_PREFIX = "ed25519:"
KEY_BYTES = 32
SIGNATURE_BYTES = 64
KEY_ID_PATTERN = r"^[0-9a-f]{16}$"
MAX_KEY_FILE_BYTES = 4096

_KEY_ID = re.compile(KEY_ID_PATTERN)
_FIELD = 2**255 - 19
# y-coordinates of the points of order 1, 2, 4 and 8: with such a key anyone can make a signature that holds.
_SMALL_ORDER = frozenset(
    {
        0,
        1,
        _FIELD - 1,
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
    }
)


def is_key_id(value: object) -> bool:
    """Whether `value` is 16 lowercase hexadecimal digits."""
    return isinstance(value, str) and _KEY_ID.fullmatch(value) is not None


def encode_base64url(content: bytes) -> str:
    """Base64 with the URL-safe alphabet and without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode_base64url(text: str, *, n_bytes: int) -> bytes | None:
    """The bytes, when `text` is the one spelling of exactly `n_bytes` bytes; None otherwise."""
    if len(text) != (n_bytes * 8 + 5) // 6 or not text.isascii():
        return None
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if encode_base64url(content) == text else None


@dataclass(frozen=True)
class PublicKey:
    """The public half of a key; equal when its bytes are.

    Args:
        raw: the 32 bytes of RFC 8032.

    Raises:
        InvalidKeyError: they are not the one spelling of a point, or a point of small order. Bytes that are no point
            at all pass here; no signature ever holds for them.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise InvalidKeyError(f"a public key has {KEY_BYTES} bytes, this one has {len(self.raw)}")
        height = int.from_bytes(self.raw, "little") & ((1 << 255) - 1)
        if height >= _FIELD or height in _SMALL_ORDER:
            raise InvalidKeyError(
                f"the public key {self.text} is weak: its point is not in its one spelling or of small order; "
                "make a key with an Ed25519 library"
            )

    @cached_property
    def _key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.raw)

    @cached_property
    def key_id(self) -> str:
        """First 16 hex digits of the SHA-256 of the bytes."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def text(self) -> str:
        """As it travels: `ed25519:` and base64url without padding."""
        return PUBLIC_PREFIX + encode_base64url(self.raw)

    @classmethod
    def parse(cls, value: object) -> PublicKey:
        """The key that `text` gives.

        Raises:
            InvalidKeyError: it is none.
        """
        raw = None
        if isinstance(value, str) and value.startswith(PUBLIC_PREFIX):
            raw = decode_base64url(value.removeprefix(PUBLIC_PREFIX), n_bytes=KEY_BYTES)
        if raw is None:
            raise InvalidKeyError(
                f"{repr(value)[:80]} is no public key; one is '{PUBLIC_PREFIX}' and 43 characters of base64url"
            )
        return cls(raw)

    def is_signature(self, signature: bytes, message: bytes) -> bool:
        """Whether the private half of this key made `signature` over `message`."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class KeyPair:
    """A private key. It shows itself by its id only; make one with `generate`, `load` or `from_seed`."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PublicKey(private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"KeyPair({self.key_id})"

    @property
    def key_id(self) -> str:
        """Id of the public half."""
        return self.public.key_id

    @classmethod
    def generate(cls) -> KeyPair:
        """A new key from the system's random source."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """The key of a seed of 32 bytes (the "secret key" of RFC 8032).

        Raises:
            InvalidKeyError: it has another length.
        """
        if len(seed) != KEY_BYTES:
            raise InvalidKeyError(f"a seed has {KEY_BYTES} bytes, this one has {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path) -> KeyPair:
        """Read a key that `save` wrote: PKCS8 in PEM, not encrypted.

        Raises:
            InvalidKeyError: the file holds no such key.
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            content = file.read(MAX_KEY_FILE_BYTES + 1)
        try:
            if len(content) > MAX_KEY_FILE_BYTES:
                raise ValueError("too long")
            private = load_pem_private_key(content, password=None)
        # cryptography raises TypeError for an encrypted key and UnsupportedAlgorithm (an Exception) for exotic ones.
        except Exception as exc:
            raise InvalidKeyError(f"'{path}' holds no private key in PEM that can be read; restore it") from exc
        if not isinstance(private, Ed25519PrivateKey):
            raise InvalidKeyError(f"'{path}' holds a key of another kind; an Ed25519 key is needed")
        return cls(private)

    def save(self, path: Path, *, replace: bool = True) -> None:
        """Write the key as PKCS8 in PEM, mode 0600, aside and then to its place, durably.

        Raises:
            FileExistsError: there is a file and `replace` is false.
        """
        pem = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private_file(path, pem, replace=replace)

    def sign(self, message: bytes) -> bytes:
        """The signature of RFC 8032 over `message`, 64 bytes; equal messages get equal signatures."""
        return self._private.sign(message)
