"""The vault: first use, rotation, retirement, revocation, an absent root, damage."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest
from msgspec import structs

from service.contract.measurement_order import MeasurementOrder
from service.contract.release import Release
from service.signing.errors import (
    InvalidDocumentError,
    InvalidKeyError,
    InvalidVaultError,
    KeyStateError,
    ReplayedDocumentError,
    RevokedKeyError,
    RootKeyMissingError,
    UnknownKeyError,
)
from service.signing.keys import KeyPair, PublicKey
from service.signing.vault import KEYRING_SECONDS, Vault
from tests.service.signing.samples import NOW, STRANGER, Clock, node_view, probe, release


def active(vault: Vault) -> str:
    (key_id,) = [key.key_id for key in vault.key_statuses() if key.role == "signing" and key.state == "active"]
    return key_id


def states(vault: Vault) -> dict[str, str]:
    return {key.key_id: key.state for key in vault.key_statuses() if key.role == "signing"}


def test_first_use_makes_a_root_key_a_signing_key_and_a_keyring(vault: Vault) -> None:
    keyring = node_view(vault, vault.root)
    assert (keyring.version, keyring.issued, keyring.expires) == (NOW, NOW, NOW + KEYRING_SECONDS)
    root, signing = vault.key_statuses()
    assert (root.role, root.state, root.has_private) == ("root", "active", True)
    assert (signing.role, signing.state, signing.has_private) == ("signing", "active", True)
    assert root.key_id != signing.key_id
    assert PublicKey.parse(root.public) == vault.root


def test_files_and_folders_are_for_their_owner_only(vault: Vault) -> None:
    vault.rotate()
    for path in (vault.folder, *vault.folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    vault.folder.chmod(0o755)
    Vault.open(vault.folder)
    assert stat.S_IMODE(vault.folder.stat().st_mode) == 0o700


def test_opening_again_changes_nothing(vault: Vault, clock: Clock) -> None:
    assert Vault.open(vault.folder, clock=clock).keyring_document() == vault.keyring_document()


def test_releases_and_probes_are_signed_with_the_active_key(vault: Vault) -> None:
    keyring = node_view(vault, vault.root)
    document = vault.sign(release().to_signed())
    assert [entry["key_id"] for entry in document["signatures"]] == [active(vault)]
    assert Release.open(document, keyring) == release()
    assert MeasurementOrder.open(vault.sign(probe().to_signed()), keyring) == probe()
    with pytest.raises(InvalidDocumentError):
        vault.sign(Release(**(structs.asdict(release()) | {"node": "../x"})).to_signed())


def test_after_a_rotation_both_keys_count_and_the_new_one_signs(vault: Vault) -> None:
    old, before = active(vault), vault.sign(release().to_signed())
    new = vault.rotate()
    assert states(vault) == {new: "active", old: "retiring"}
    keyring = node_view(vault, vault.root)
    assert keyring.version == NOW + 1
    assert Release.open(before, keyring) == release()
    after = vault.sign(release().to_signed())
    assert after["signatures"][0]["key_id"] == new
    assert Release.open(after, keyring) == release()


def test_a_retired_key_has_no_private_half_and_still_counts(vault: Vault) -> None:
    old, before = active(vault), vault.sign(release().to_signed())
    with pytest.raises(KeyStateError, match="active"):
        vault.retire(old)
    vault.rotate()
    for _ in range(2):
        vault.retire(old)
    assert not (vault.folder / "signing" / f"{old}.pem").exists()
    assert Release.open(before, node_view(vault, vault.root)) == release()
    vault.revoke(old)
    with pytest.raises(KeyStateError, match="revoked"):
        vault.retire(old)


def test_what_a_revoked_key_signed_never_counts(vault: Vault) -> None:
    old, before = active(vault), vault.sign(release().to_signed())
    vault.rotate()
    vault.revoke(old)
    with pytest.raises(RevokedKeyError, match=old):
        Release.open(before, node_view(vault, vault.root))
    assert not (vault.folder / "signing" / f"{old}.pem").exists()
    version = vault.keyring().version
    vault.revoke(old)
    assert vault.keyring().version == version


def test_revoking_the_active_key_makes_another_in_the_same_step(vault: Vault) -> None:
    old = active(vault)
    vault.revoke(old)
    assert vault.keyring().version == NOW + 1
    assert states(vault)[old] == "revoked"
    assert active(vault) != old
    assert Release.open(vault.sign(release().to_signed()), node_view(vault, vault.root)) == release()


@pytest.mark.parametrize("key_id", ["0" * 16, "", "../../root", "x" * 1000])
def test_unknown_keys_are_named(vault: Vault, key_id: str) -> None:
    for change in (vault.retire, vault.revoke):
        with pytest.raises(UnknownKeyError):
            change(key_id)


def test_the_root_key_is_no_signing_key(vault: Vault) -> None:
    with pytest.raises(UnknownKeyError):
        vault.revoke(vault.root.key_id)


def test_without_the_root_key_all_goes_on_but_changes_of_the_keyring(vault: Vault, tmp_path: Path) -> None:
    old = active(vault)
    new = vault.rotate()
    root = vault.root
    target = tmp_path / "root-key.pem"
    assert vault.export_root(target) == root.key_id
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert not (vault.folder / "root.pem").exists()

    reopened = Vault.open(vault.folder)
    assert not reopened.key_statuses()[0].has_private
    assert Release.open(reopened.sign(release().to_signed()), node_view(reopened, root)) == release()
    reopened.retire(old)
    for change in (reopened.rotate, lambda: reopened.revoke(new), lambda: reopened.export_root(tmp_path / "again")):
        with pytest.raises(RootKeyMissingError, match=root.key_id):
            change()
    before = reopened.keyring().version
    assert before == vault.keyring().version
    assert not (tmp_path / "again").exists()

    reopened.rotate(root=KeyPair.load(target))
    reopened.revoke(new, root=KeyPair.load(target))
    assert node_view(reopened, root).version > before + 1
    assert not (vault.folder / "root.pem").exists()
    with pytest.raises(InvalidVaultError, match=STRANGER.key_id):
        reopened.rotate(root=STRANGER)

    shutil.copy(target, vault.folder / "root.pem")
    reopened.rotate()
    assert node_view(reopened, root).version > before + 2


def test_the_root_key_never_replaces_a_file(vault: Vault, tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.write_text("precious")
    with pytest.raises(FileExistsError):
        vault.export_root(target)
    assert target.read_text() == "precious"
    assert (vault.folder / "root.pem").exists()


def test_an_open_vault_notices_what_another_process_changes(vault: Vault) -> None:
    other = Vault.open(vault.folder)
    new = other.rotate()
    assert vault.sign(release().to_signed())["signatures"][0]["key_id"] == new
    assert vault.keyring_document() == other.keyring_document()
    before = vault.keyring().version
    vault.revoke(new)
    assert other.keyring().version == vault.keyring().version > before
    assert Release.open(other.sign(release().to_signed()), node_view(vault, vault.root)) == release()


def test_a_keyring_is_renewed_in_time_when_the_root_key_is_there(vault: Vault, clock: Clock, tmp_path: Path) -> None:
    clock.now += KEYRING_SECONDS // 2 - 1
    assert Vault.open(vault.folder, clock=clock).keyring().version == NOW
    clock.now += 2
    renewed = Vault.open(vault.folder, clock=clock).keyring()
    assert (renewed.version, renewed.expires) == (clock.now, clock.now + KEYRING_SECONDS)
    assert vault.keyring() == renewed
    vault.export_root(tmp_path / "root-key.pem")
    clock.now += KEYRING_SECONDS
    assert Vault.open(vault.folder, clock=clock).keyring() == renewed


def test_a_clock_set_back_makes_no_older_keyring(vault: Vault, clock: Clock) -> None:
    clock.now -= 1_000_000
    vault.rotate()
    assert (vault.keyring().version, vault.keyring().issued) == (NOW + 1, NOW)


def test_a_restored_vault_goes_on_beyond_what_nodes_have_seen_since(vault: Vault, clock: Clock, tmp_path: Path) -> None:
    shutil.copytree(vault.folder, tmp_path / "backup")
    for _ in range(5):
        clock.now += 1
        vault.rotate()
    seen = vault.keyring()
    restored = Vault.open(tmp_path / "backup", clock=clock)
    with pytest.raises(ReplayedDocumentError):
        restored.keyring().check_follows(seen)
    clock.now += 3600
    restored.rotate()
    restored.keyring().check_follows(seen)


def test_the_keyring_keeps_to_its_bound(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.signing.vault.MAX_KEYS", 5)
    first = active(vault)
    made = [vault.rotate()]
    vault.revoke(first)
    made += [vault.rotate() for _ in range(5)]
    assert states(vault) == dict.fromkeys(made[1:-1], "retiring") | {made[-1]: "active"}
    assert {path.stem for path in (vault.folder / "signing").iterdir()} == set(made[1:])
    assert node_view(vault, vault.root) == vault.keyring()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"{", b"\0" * 100, b'{"signed":{"root":{"public":1}}}'])
def test_a_damaged_keyring_is_named(vault: Vault, content: bytes) -> None:
    (vault.folder / "keyring.json").write_bytes(content)
    for use in (vault.keyring, vault.rotate, lambda: Vault.open(vault.folder)):
        with pytest.raises(InvalidVaultError, match=r"keyring\.json"):
            use()


def test_a_changed_keyring_is_refused(vault: Vault) -> None:
    path = vault.folder / "keyring.json"
    document = json.loads(path.read_bytes())
    document["signed"]["version"] = 9
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidVaultError, match="damaged"):
        Vault.open(vault.folder)


def test_damaged_and_missing_keys_are_named(vault: Vault) -> None:
    signing = vault.folder / "signing" / f"{active(vault)}.pem"
    signing.write_bytes(b"")
    with pytest.raises(InvalidKeyError, match=signing.name):
        Vault.open(vault.folder)
    signing.unlink()
    with pytest.raises(InvalidVaultError, match="inn keys rotate"):
        Vault.open(vault.folder)
    vault.rotate()
    assert Vault.open(vault.folder).sign(release().to_signed())
    STRANGER.save(vault.folder / "root.pem")
    with pytest.raises(InvalidVaultError, match=STRANGER.key_id):
        vault.rotate()


def test_a_lost_keyring_never_starts_anew_behind_the_back_of_the_nodes(vault: Vault) -> None:
    vault.rotate()
    (vault.folder / "keyring.json").unlink()
    for use in (lambda: Vault.open(vault.folder), vault.keyring):
        with pytest.raises(InvalidVaultError, match="restore"):
            use()
