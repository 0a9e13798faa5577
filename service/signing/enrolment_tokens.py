"""Enrolment tokens: one use each, `inn1.<id>.<secret>.<root public key>`; the hub keeps a hash of the secret only.

The token carries the whole root key, so that a node knows whom to believe before it says its first word to a hub.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from service.signing.errors import InvalidKeyError, InvalidTokenError, UnknownKeyError
from service.signing.keys import KEY_BYTES, PublicKey, decode_base64url, encode_base64url

PREFIX = "inn1"
SECRET_BYTES = 32
ID_DIGITS = 12
MAX_TOKEN_LENGTH = 256

_WAY_OUT = "make a new one with 'inn fleet token'"


@dataclass(frozen=True)
class EnrolmentToken:
    """A token as a node holds it; only `text` shows the secret.

    Args:
        id: 12 lowercase hexadecimal digits, to find the record by.
        secret: 32 random bytes.
        root: root key of the hub that made it.
    """

    id: str
    secret: bytes = field(repr=False)
    root: PublicKey

    @classmethod
    def generate(cls, root: PublicKey) -> EnrolmentToken:
        """A new token of the hub with this root key."""
        return cls(secrets.token_hex(ID_DIGITS // 2), secrets.token_bytes(SECRET_BYTES), root)

    @classmethod
    def parse(cls, text: object) -> EnrolmentToken:
        """Read a token.

        Raises:
            InvalidTokenError: it is none; the message never shows it.
        """
        parts = text.strip().split(".") if isinstance(text, str) and len(text) <= MAX_TOKEN_LENGTH else []
        if len(parts) == 4 and parts[0] == PREFIX and len(parts[1]) == ID_DIGITS:
            secret = decode_base64url(parts[2], n_bytes=SECRET_BYTES)
            raw = decode_base64url(parts[3], n_bytes=KEY_BYTES)
            if set(parts[1]) <= set("0123456789abcdef") and secret is not None and raw is not None:
                try:
                    return cls(parts[1], secret, PublicKey(raw))
                except InvalidKeyError:
                    pass
        raise InvalidTokenError(
            f"this is no enrolment token; one has the form {PREFIX}.ID.SECRET.ROOT: copy it whole, or {_WAY_OUT}"
        )

    @property
    def text(self) -> str:
        """As it is handed out; a secret until it is used."""
        return f"{PREFIX}.{self.id}.{encode_base64url(self.secret)}.{encode_base64url(self.root.raw)}"

    @property
    def secret_hash(self) -> str:
        """SHA-256 of the secret, 64 hexadecimal digits: what the hub keeps."""
        return hashlib.sha256(self.secret).hexdigest()

    def check_root(self, root: PublicKey) -> None:
        """Check that a hub has the root key that the token names.

        Raises:
            UnknownKeyError: it has another one.
        """
        if root != self.root:
            raise UnknownKeyError(
                f"the hub's root key is {root.key_id}, the token comes from a hub with {self.root.key_id}; "
                f"check the address of the hub, or {_WAY_OUT} on this one",
                key_ids=[root.key_id],
            )


@dataclass(frozen=True)
class TokenRecord:
    """What the hub keeps of a token.

    Args:
        id: of the token.
        secret_hash: SHA-256 of its secret, 64 hexadecimal digits.
        node: who may use it; None for anyone.
        expires: until when, seconds since the epoch.
        used_at: when it was used; None while it was not.
    """

    id: str
    secret_hash: str = field(repr=False)
    node: str | None
    expires: int
    used_at: int | None = None

    def is_of(self, token: EnrolmentToken) -> bool:
        """Whether this is the record of that token; takes equally long for every wrong secret."""
        same_secret = hmac.compare_digest(self.secret_hash.encode(), token.secret_hash.encode())
        return same_secret and self.id == token.id

    def check(self, token: EnrolmentToken, *, node: str, now: int) -> None:
        """Check that a node may enroll with this token now.

        Raises:
            InvalidTokenError: the secret differs, or the token is used, expired or for another node.
        """
        if not self.is_of(token):
            raise unknown_token(token.id)
        if self.used_at is not None:
            raise InvalidTokenError(f"token {self.id} was used already, and each is good for one node; {_WAY_OUT}")
        if now >= self.expires:
            raise InvalidTokenError(f"token {self.id} expired at {self.expires}, it is {now}; {_WAY_OUT}")
        if self.node is not None and self.node != node:
            raise InvalidTokenError(f"token {self.id} is for another node than '{node}'; {_WAY_OUT}")


def unknown_token(token_id: str) -> InvalidTokenError:
    """The error of a token that the hub has no record of, the same as for a wrong secret."""
    return InvalidTokenError(f"the hub knows no token {token_id} with this secret; {_WAY_OUT}")
