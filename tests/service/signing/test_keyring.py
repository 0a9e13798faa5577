"""The keyring: said by the pinned root only, read strictly, never going back."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from service.signing.envelope import sign
from service.signing.errors import (
    ExpiredDocumentError,
    InvalidDocumentError,
    ReplayedDocumentError,
    RevokedKeyError,
    UnknownKeyError,
    UntrustedSignatureError,
)
from service.signing.keyring import ACTIVE, MAX_KEYS, RETIRING, REVOKED, Keyring, KeyringEntry
from service.signing.keys import KeyPair
from tests.service.signing.samples import FIRST, NOW, ROOT, SECOND, STRANGER, THIRD, keyring, release_content

KIND = "inn-release/1"


def test_a_keyring_comes_back_as_it_was() -> None:
    document = keyring().to_document([ROOT])
    assert set(document["signed"]) == {"type", "version", "issued", "expires", "keys", "root"}
    assert document["signed"]["root"] == {"key_id": ROOT.key_id, "public": ROOT.public.text}
    assert Keyring.open(document, ROOT.public) == keyring()


@pytest.mark.parametrize(("key", "counts"), [(FIRST, True), (SECOND, True), (THIRD, False), (STRANGER, False)])
def test_active_and_retiring_keys_count_and_no_others(key: KeyPair, counts: bool) -> None:
    document = sign(release_content(), [key])
    if counts:
        assert keyring().verify(document, KIND) == release_content()
    else:
        with pytest.raises(RevokedKeyError if key is THIRD else UnknownKeyError):
            keyring().verify(document, KIND)


def test_the_root_key_signs_no_releases() -> None:
    with pytest.raises(UnknownKeyError):
        keyring().verify(sign(release_content(), [ROOT]), KIND)


@pytest.mark.parametrize("signer", [FIRST, STRANGER])
def test_another_key_than_the_pinned_root_makes_no_keyring(signer: KeyPair) -> None:
    with pytest.raises(UnknownKeyError):
        Keyring.open(keyring().to_document([signer]), ROOT.public)
    with pytest.raises(UnknownKeyError):
        Keyring.open(keyring(root=STRANGER.public).to_document([signer]), ROOT.public)


def test_a_new_root_counts_when_old_and_new_signed() -> None:
    changed = keyring(root=STRANGER.public, version=4)
    assert Keyring.open(changed.to_document([STRANGER, ROOT]), ROOT.public).root == STRANGER.public
    assert Keyring.open(changed.to_document([ROOT, STRANGER]), STRANGER.public).root == STRANGER.public
    with pytest.raises(UnknownKeyError):
        Keyring.open(changed.to_document([STRANGER]), ROOT.public)
    with pytest.raises(UnknownKeyError):
        Keyring.open(changed.to_document([ROOT]), ROOT.public)
    forged = changed.to_document([ROOT, STRANGER])
    forged["signatures"][1]["signature"] = forged["signatures"][0]["signature"]
    with pytest.raises(UntrustedSignatureError):
        Keyring.open(forged, ROOT.public)


def test_a_release_signature_is_no_keyring_signature() -> None:
    content = keyring().to_signed() | {"type": KIND}
    document = sign(content, [ROOT])
    document["signed"]["type"] = "inn-keyring/1"
    with pytest.raises(UntrustedSignatureError):
        Keyring.open(document, ROOT.public)


def entry(key: KeyPair, **changes: Any) -> dict[str, Any]:
    return {"key_id": key.key_id, "public": key.public.text, "state": "active"} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"version": True},
        {"version": 1.5},
        {"version": "3"},
        {"version": None},
        {"version": 2**53},
        {"issued": -1},
        {"issued": NOW + 0.5},
        {"issued": NOW + 10_000 * 86_400},
        {"expires": NOW},
        {"expires": 10**15},
        {"type": "inn-release/1"},
        {"keys": []},
        {"keys": {}},
        {"keys": [entry(FIRST), entry(FIRST)]},
        {"keys": [entry(ROOT)]},
        {"keys": [entry(FIRST, state="trusted")]},
        {"keys": [entry(FIRST, state=["active"])]},
        {"keys": [entry(FIRST, more=1)]},
        {"keys": [entry(FIRST, key_id=SECOND.key_id)]},
        {"keys": [entry(FIRST, public="ed25519:x")]},
        {"keys": [entry(FIRST, public=None)]},
        {"keys": [entry(KeyPair.from_seed(number.to_bytes(32, "big"))) for number in range(MAX_KEYS + 1)]},
        {"root": None},
        {"root": {"key_id": ROOT.key_id}},
        {"root": {"key_id": FIRST.key_id, "public": ROOT.public.text}},
        {"root": {"key_id": ROOT.key_id, "public": ROOT.public.text, "state": "active"}},
        {"more": 1},
    ],
    ids=lambda changes: f"{next(iter(changes))}-{str(next(iter(changes.values())))[:30]}",
)
def test_a_keyring_is_read_strictly(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocumentError):
        Keyring.parse(keyring().to_signed() | changes)


@pytest.mark.parametrize("member", ["type", "version", "issued", "expires", "keys", "root"])
def test_every_member_is_needed(member: str) -> None:
    content = keyring().to_signed()
    del content[member]
    with pytest.raises(InvalidDocumentError, match=member):
        Keyring.parse(content)


def test_a_keyring_never_goes_back() -> None:
    trusted = keyring(version=5)
    keyring(version=6).check_follows(trusted)
    keyring(version=5).check_follows(copy.copy(trusted))
    keyring(version=1).check_follows(None)
    for older in (keyring(version=4), keyring(version=5, keys=(KeyringEntry(FIRST.public, REVOKED),))):
        with pytest.raises(ReplayedDocumentError, match="version 5"):
            older.check_follows(trusted)


def test_an_expired_keyring_says_so() -> None:
    keyring().check_current(keyring().expires - 1)
    with pytest.raises(ExpiredDocumentError):
        keyring().check_current(keyring().expires)


def test_states_have_their_names() -> None:
    assert (ACTIVE, RETIRING, REVOKED) == ("active", "retiring", "revoked")
