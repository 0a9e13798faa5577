"""The keyring: which keys sign releases, said by the root key and by nothing else.

A node pins the root key when it enrolls. A keyring that names another root counts when both the pinned root and the new
one signed it; the node then pins the new one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from service.signing.envelope import Document, canonical, sign, verify
from service.signing.errors import ExpiredDocumentError, InvalidDocumentError, InvalidKeyError, ReplayedDocumentError
from service.signing.fields import array, choice, integer, key_id, lifetime, members
from service.signing.keys import KeyPair, PublicKey

KEYRING_TYPE = "inn-keyring/1"
MAX_KEYS = 64

ACTIVE = "active"
RETIRING = "retiring"
REVOKED = "revoked"
STATES = (ACTIVE, RETIRING, REVOKED)


@dataclass(frozen=True)
class KeyringEntry:
    """A signing key and what its signatures are worth: `active` and `retiring` ones count, `revoked` ones never."""

    public: PublicKey
    state: str

    @property
    def key_id(self) -> str:
        """Id of the key."""
        return self.public.key_id


@dataclass(frozen=True)
class Keyring:
    """The content of a keyring document.

    Args:
        version: grows with every change; a vault takes the time of the change.
        issued: when it was signed, seconds since the epoch.
        expires: until when it may bring in new releases.
        keys: signing keys, no two alike.
        root: who signed.
    """

    version: int
    issued: int
    expires: int
    keys: tuple[KeyringEntry, ...]
    root: PublicKey

    @classmethod
    def parse(cls, signed: Mapping[str, Any]) -> Keyring:
        """Read the content of a keyring whose signature was checked already.

        Raises:
            InvalidDocumentError: a member is missing, unknown or wrong, or a key is there twice.
        """
        where = KEYRING_TYPE
        fields = members(
            dict(signed), where, required=("type", "version", "issued", "expires", "keys", "root"), optional=()
        )
        choice(fields["type"], f"{where}/type", allowed=(KEYRING_TYPE,))
        version = integer(fields["version"], f"{where}/version", minimum=1)
        issued, expires = lifetime(fields["issued"], fields["expires"], where)
        root = _public_key(members(fields["root"], f"{where}/root", required=("key_id", "public")), f"{where}/root")
        entries = []
        seen = {root.key_id}
        for position, entry in enumerate(array(fields["keys"], f"{where}/keys", minimum=1, maximum=MAX_KEYS)):
            place = f"{where}/keys/{position}"
            item = members(entry, place, required=("key_id", "public", "state"))
            public = _public_key(item, place)
            if public.key_id in seen:
                raise InvalidDocumentError(place, f"key {public.key_id} is there twice; root signs nothing else")
            seen.add(public.key_id)
            entries.append(KeyringEntry(public, choice(item["state"], f"{place}/state", allowed=STATES)))
        return cls(version=version, issued=issued, expires=expires, keys=tuple(entries), root=root)

    @classmethod
    def open(cls, document: bytes | Mapping[str, Any], root: PublicKey) -> Keyring:
        """Verify a keyring document against the pinned root key and read it.

        Returns:
            The keyring. When its `root` is another than the pinned one, both signed, and the new one is to be pinned.

        Raises:
            UnknownKeyError: the pinned root did not sign, or a new root is named that did not sign either.
            UntrustedSignatureError, InvalidDocumentError: as of `verify` and `parse`.
        """
        keyring = cls.parse(verify(document, {root.key_id: root}, KEYRING_TYPE))
        if keyring.root != root:
            verify(document, {keyring.root.key_id: keyring.root}, KEYRING_TYPE)
        return keyring

    def to_signed(self) -> dict[str, Any]:
        """The content, ready to be signed."""
        return {
            "type": KEYRING_TYPE,
            "version": self.version,
            "issued": self.issued,
            "expires": self.expires,
            "keys": [
                {"key_id": entry.key_id, "public": entry.public.text, "state": entry.state} for entry in self.keys
            ],
            "root": {"key_id": self.root.key_id, "public": self.root.text},
        }

    def to_document(self, keys: Sequence[KeyPair]) -> Document:
        """The document, signed by the root key (and by the former ones after a root rotation)."""
        return sign(self.to_signed(), keys)

    @cached_property
    def trusted(self) -> Mapping[str, PublicKey]:
        """The keys whose signatures count, by id."""
        return {entry.key_id: entry.public for entry in self.keys if entry.state != REVOKED}

    @cached_property
    def revoked(self) -> frozenset[str]:
        """Ids of the revoked keys."""
        return frozenset(entry.key_id for entry in self.keys if entry.state == REVOKED)

    def with_revoked(self, key_ids: Collection[str]) -> Keyring:
        """This keyring with these keys revoked as well: those that an earlier one revoked stay so."""
        keys = tuple(replace(entry, state=REVOKED) if entry.key_id in key_ids else entry for entry in self.keys)
        return replace(self, keys=keys)

    def verify(self, document: bytes | Mapping[str, Any], kind: str) -> dict[str, Any]:
        """The signed content of a document that one of the counting keys signed; errors as of `documents.verify`."""
        return verify(document, self.trusted, kind, revoked=self.revoked)

    def check_current(self, trusted_time: int) -> None:
        """Check that the keyring may still bring in new releases.

        Raises:
            ExpiredDocumentError: it may not.
        """
        if trusted_time >= self.expires:
            raise ExpiredDocumentError("the keyring", expires=self.expires, trusted_time=trusted_time)

    def check_follows(self, trusted: Keyring | None) -> None:
        """Check that this keyring may take the place of the one trusted so far; the very same one may.

        Raises:
            ReplayedDocumentError: its version is lower, or equal while it differs.
        """
        if trusted is None or self.version > trusted.version:
            return
        if self.version < trusted.version or canonical(self.to_signed()) != canonical(trusted.to_signed()):
            raise ReplayedDocumentError("the keyring", version=self.version, trusted_version=trusted.version)


def _public_key(fields: Mapping[str, Any], where: str) -> PublicKey:
    named = key_id(fields["key_id"], f"{where}/key_id")
    try:
        public = PublicKey.parse(fields["public"])
    except InvalidKeyError as exc:
        raise InvalidDocumentError(f"{where}/public", exc.message) from exc
    if public.key_id != named:
        raise InvalidDocumentError(f"{where}/key_id", f"it is {named}, the key's own is {public.key_id}")
    return public
