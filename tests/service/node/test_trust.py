"""What a node believes, and what it goes on believing after a restart, whatever its clock says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.contract.measurement_order import MeasurementOrder, Rung
from service.contract.release import Policy, Release
from service.node.errors import InvalidNodeStateError, NodeMismatchError
from service.node.trust.store import TrustStore
from service.signing.errors import (
    ExpiredDocumentError,
    InvalidDocumentError,
    ReplayedDocumentError,
    RevokedKeyError,
    UnknownKeyError,
    UntrustedSignatureError,
)
from service.signing.keyring import Keyring, KeyringEntry
from service.signing.keys import KeyPair

NOW = 1_800_000_000
DAY = 86_400
DIGEST = "sha256:" + "ab" * 32
ROOT, SIGNING, OTHER = (KeyPair.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
TENSORS = [{"name": "x", "dtype": "float32", "shape": [None, 4]}]
MANIFEST = {
    "model": "toy",
    "checkpoint": DIGEST,
    "digest": DIGEST,
    "params": 5,
    "macs": 5,
    "bytes": 5,
    "quality": "instant",
    "inputs": TENSORS,
    "outputs": TENSORS,
}
SELF_TEST = {"seed": "00", "rows": 1, "outputs": None, "tolerance": 0.001}


def keyring(
    version: int = 1,
    *,
    root: KeyPair = ROOT,
    signers: tuple[KeyPair, ...] = (ROOT,),
    issued: int = NOW,
    **states: str,
) -> Any:
    entries = tuple(
        KeyringEntry(key.public, states.get(name, "active")) for name, key in (("signing", SIGNING), ("other", OTHER))
    )
    return Keyring(version, issued, NOW + 1000 * DAY, entries, root.public).to_document(signers)


def release(version: int, *, issued: int = NOW, key: KeyPair = SIGNING, days: int = 30, **changes: Any) -> Any:
    content = {"node": "n1", "rollback": False, "manifest": MANIFEST, "self_test": SELF_TEST, "policy": Policy()}
    return Release(version=version, issued=issued, expires=issued + days * DAY, **{**content, **changes}).to_document(
        [key]
    )


@pytest.fixture
def identity(tmp_path: Path) -> TrustStore:
    """A node that is enrolled."""
    found = TrustStore(tmp_path, "n1", clock=lambda: NOW)
    found.pin(ROOT.public, keyring(), token_id="0" * 12)
    return found


def again(tmp_path: Path, clock: Callable[[], float] = lambda: NOW) -> TrustStore:
    return TrustStore(tmp_path, "n1", clock=clock)


def test_files_are_for_the_owner_only(identity: TrustStore, tmp_path: Path) -> None:
    folder = tmp_path / "trusted"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "state.json": 0o600,
        "node.key": 0o600,
    }


def test_everything_survives_a_restart(identity: TrustStore, tmp_path: Path) -> None:
    identity.accept_release(release(7))
    other = again(tmp_path)
    assert other.is_enrolled
    assert (other.key.public, other.token_id, other.release_version) == (identity.key.public, "0" * 12, 7)
    with pytest.raises(ReplayedDocumentError):
        other.check_release(release(6))


def test_versions_only_grow_whatever_a_release_says_of_rollback(identity: TrustStore) -> None:
    identity.accept_release(release(2))
    for document in (release(1), release(1, rollback=True), release(2, rollback=True), release(2, policy=Policy(0.5))):
        with pytest.raises(ReplayedDocumentError):
            identity.accept_release(document)
    assert identity.accept_release(release(2, issued=NOW + 5)).issued == NOW + 5  # signed anew
    assert identity.accept_release(release(3, rollback=True)).rollback


def test_a_clock_that_is_set_back_does_not_bring_expired_releases_back(identity: TrustStore, tmp_path: Path) -> None:
    identity.accept_release(release(2, issued=NOW))
    old = release(3, issued=NOW - 40 * DAY)
    for clock in (NOW, NOW - 39 * DAY, 0):
        with pytest.raises(ExpiredDocumentError):
            again(tmp_path, lambda clock=clock: clock).check_release(old)
    assert again(tmp_path, lambda: 0).trusted_time == NOW


def test_a_clock_far_ahead_expires_releases_until_it_is_set_right(identity: TrustStore, tmp_path: Path) -> None:
    with pytest.raises(ExpiredDocumentError):
        again(tmp_path, lambda: NOW + 400 * DAY).accept_release(release(2))
    assert again(tmp_path).accept_release(release(2)).version == 2


def test_a_revoked_key_takes_with_it_what_it_has_shown(identity: TrustStore, tmp_path: Path) -> None:
    identity.accept_release(release(7))
    identity.accept_release(release(2**53 - 1, key=OTHER, issued=NOW + 900 * DAY))  # by a thief
    assert identity.proof() == {"time": NOW + 900 * DAY, "version": 2**53 - 1}
    for document in (release(8), release(8, issued=NOW + 900 * DAY)):
        with pytest.raises(ReplayedDocumentError):
            identity.accept_release(document)
    identity.accept_keyring(keyring(2, other="revoked"))
    for found in (identity, again(tmp_path)):
        assert found.proof() == {"time": NOW, "version": 7}
        with pytest.raises(ReplayedDocumentError):
            found.check_release(release(6))
    assert identity.accept_release(release(8)).version == 8


def test_what_came_before_a_theft_does_not_come_back_with_the_revocation(identity: TrustStore, tmp_path: Path) -> None:
    old = release(5, key=OTHER)
    identity.accept_release(old)
    for version in range(6, 11):
        identity.accept_release(release(version))
    identity.accept_keyring(keyring(2, issued=NOW + 60, signing="revoked"))
    assert identity.release_version == 5
    for found in (identity, again(tmp_path)):
        for version in (5, 7):  # recorded on their way, and played back
            with pytest.raises(ExpiredDocumentError, match="before a key was revoked"):
                found.check_release(release(version, key=OTHER))
    assert identity.accept_release(release(10, key=OTHER, issued=NOW + 60)).version == 10


def test_a_revocation_of_a_key_that_showed_nothing_newer_lets_all_else_be(identity: TrustStore) -> None:
    identity.accept_release(release(5))
    identity.accept_keyring(keyring(2, issued=NOW + 60, other="revoked"))
    assert identity.accept_release(release(6)).version == 6


def test_a_key_stays_revoked_whatever_a_later_keyring_says(identity: TrustStore, tmp_path: Path) -> None:
    """A hub that was restored from a backup knows nothing of the revocation."""
    identity.accept_keyring(keyring(2, other="revoked"))
    for version in (3, 4):
        identity.accept_keyring(keyring(version))
        identity.accept_keyring(keyring(version))  # the same again
        for found in (identity, again(tmp_path)):
            with pytest.raises(RevokedKeyError):
                found.check_release(release(2, key=OTHER))
    assert identity.accept_release(release(2)).version == 2


def test_a_key_does_not_answer_for_the_times_of_another(identity: TrustStore) -> None:
    identity.accept_release(release(2, key=OTHER, issued=NOW + 900 * DAY))
    identity.accept_release(release(3, issued=NOW + 5, days=950))
    assert identity.trusted_time == NOW + 900 * DAY
    identity.accept_keyring(keyring(2, other="retiring"))
    assert identity.trusted_time == NOW + 900 * DAY
    identity.accept_keyring(keyring(3, other="revoked"))
    assert identity.trusted_time == NOW + 5


def test_no_release_moves_the_time_beyond_the_end_of_the_keyring(identity: TrustStore, tmp_path: Path) -> None:
    with pytest.raises(ExpiredDocumentError, match="keyring"):
        identity.accept_release(release(2, issued=NOW + 1000 * DAY))
    assert again(tmp_path).trusted_time == NOW
    assert identity.accept_release(release(2, issued=NOW + 1000 * DAY - 1)).version == 2


def test_other_nodes_other_keys_and_changed_documents_do_not_count(identity: TrustStore) -> None:
    with pytest.raises(InvalidDocumentError, match="'n2'"):
        identity.accept_release(release(2, node="n2"))
    with pytest.raises(UnknownKeyError):
        identity.accept_release(release(2, key=KeyPair.generate()))
    changed = release(2)
    changed["signed"]["version"] = 3
    with pytest.raises(UntrustedSignatureError):
        identity.accept_release(changed)
    assert identity.release_version == 0


def test_a_keyring_takes_the_place_of_an_older_one_only(identity: TrustStore, tmp_path: Path) -> None:
    identity.accept_keyring(keyring(3, other="revoked"))
    with pytest.raises(ReplayedDocumentError):
        identity.accept_keyring(keyring(2))
    with pytest.raises(RevokedKeyError):
        again(tmp_path).check_release(release(2, key=OTHER))
    with pytest.raises(UnknownKeyError):
        identity.accept_keyring(keyring(4, root=OTHER, signers=(OTHER,)))


def test_a_root_that_the_pinned_one_names_takes_its_place(identity: TrustStore, tmp_path: Path) -> None:
    root = KeyPair.generate()
    identity.accept_keyring(keyring(2, root=root, signers=(ROOT, root)))
    identity.accept_keyring(keyring(3, root=root, signers=(root,)))
    assert again(tmp_path).is_enrolled
    with pytest.raises(UnknownKeyError):
        identity.accept_keyring(keyring(4))


def test_an_expired_keyring_brings_in_nothing_new(identity: TrustStore, tmp_path: Path) -> None:
    later = NOW + 1001 * DAY
    with pytest.raises(ExpiredDocumentError, match="keyring"):
        again(tmp_path, lambda: later).check_release(release(2, issued=later))


def test_a_node_is_not_moved_to_another_hub_by_a_token(identity: TrustStore) -> None:
    with pytest.raises(UnknownKeyError, match="remove its store"):
        identity.pin(OTHER.public, keyring(9, root=OTHER, signers=(OTHER,)), token_id="1" * 12)


def test_probes_are_checked_like_releases(identity: TrustStore) -> None:
    def probe(version: int, **changes: Any) -> Any:
        content = {"node": "n1", "ladder": (Rung(DIGEST, 5, 5, 5),), "batch": 1, "threads": 1, "percentile": 95.0}
        return MeasurementOrder(
            version=version, issued=NOW, expires=NOW + DAY, inputs=TENSORS, **{**content, **changes}
        ).to_document([SIGNING])

    identity.accept_release(release(5))
    assert identity.check_order(probe(6)).ladder[0].digest == DIGEST
    with pytest.raises(ReplayedDocumentError):
        identity.check_order(probe(4))
    with pytest.raises(InvalidDocumentError):
        identity.check_order(probe(6, node="n2"))
    with pytest.raises(InvalidDocumentError):
        identity.check_order(release(6))


def test_a_store_belongs_to_one_node(identity: TrustStore, tmp_path: Path) -> None:
    with pytest.raises(NodeMismatchError, match="belongs to node 'n1'"):
        TrustStore(tmp_path, "n2")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"format": 2', '"format": 1'),
        lambda text: text.replace('"shown"', '"seen"'),
        lambda text: json.dumps({**json.loads(text), "shown": {"ab": {"version": -1}}}),
        lambda text: json.dumps({**json.loads(text), "shown": {"ab": {"version": 1, "until": 2}}}),
        lambda text: json.dumps({**json.loads(text), "shown": []}),
        lambda text: json.dumps({**json.loads(text), "revoked": [1]}),
        lambda text: json.dumps({**json.loads(text), "not_before": -1}),
        lambda text: json.dumps({**json.loads(text), "root": None}),
        lambda text: json.dumps({**json.loads(text), "root": OTHER.public.text}),
    ],
)
def test_damaged_state_is_an_error_and_never_a_fresh_start(
    identity: TrustStore, tmp_path: Path, damage: Callable[[str], str]
) -> None:
    path = tmp_path / "trusted" / "state.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(InvalidNodeStateError):
        again(tmp_path)


def test_a_key_that_is_gone_is_an_error(identity: TrustStore, tmp_path: Path) -> None:
    (tmp_path / "trusted" / "node.key").unlink()
    with pytest.raises(InvalidNodeStateError):
        again(tmp_path)
