"""`inn keys` on a store, beside a hub that has its vault open."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.signing.keys import KeyPair
from service.signing.vault import Vault


def inn(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("INN_STORE", raising=False)
    return tmp_path / "hub-store"


@pytest.fixture
def hub(store: Path) -> Vault:
    return Vault.open(store / "fleet" / "keys")


def changed(store: Path, *arguments: str) -> dict[str, Any]:
    done = inn(*arguments, "--store", str(store), "--json")
    assert done.exit_code == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def signing(result: dict[str, Any]) -> dict[str, str]:
    return {key["key_id"]: key["state"] for key in result["keys"] if key["role"] == "signing"}


def test_a_store_without_keys_gets_none(store: Path) -> None:
    for arguments in (["list"], ["rotate"], ["retire", "0" * 16], ["revoke", "0" * 16], ["export-root", "x.pem"]):
        done = inn(*arguments, "--store", str(store))
        assert done.exit_code == 1
        assert done.stderr.startswith("error[no-keys]")
    assert not store.exists()


def test_list_shows_all_keys_as_a_table_and_as_json(store: Path, hub: Vault) -> None:
    listed = changed(store, "list")
    assert [(key["role"], key["state"], key["has_private"]) for key in listed["keys"]] == [
        ("root", "active", True),
        ("signing", "active", True),
    ]
    assert listed["keys"][0]["public"] == hub.root.text
    assert (listed["version"], listed["expires"]) == (hub.keyring().version, hub.keyring().expires)
    table = inn("list", "--store", str(store)).stdout
    for key in listed["keys"]:
        assert key["key_id"] in table
        assert key["public"] in table


def test_the_store_comes_from_the_environment_too(store: Path, hub: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INN_STORE", str(store))
    assert hub.root.key_id in inn("list").stdout


def test_a_key_lives_from_rotation_to_revocation_and_the_hub_follows(store: Path, hub: Vault) -> None:
    (first,) = signing(changed(store, "list"))
    version = hub.keyring().version
    rotated = signing(changed(store, "rotate"))
    (second,) = set(rotated) - {first}
    assert rotated == {first: "retiring", second: "active"}
    assert hub.keyring().version > version
    retired = changed(store, "retire", first)
    assert {key["key_id"]: key["has_private"] for key in retired["keys"]}[first] is False
    assert signing(changed(store, "revoke", first)) == {first: "revoked", second: "active"}
    assert hub.keyring().revoked == {first}
    revoked = signing(changed(store, "revoke", second))
    assert sorted(revoked.values()) == ["active", "revoked", "revoked"]


def test_errors_have_their_codes(store: Path, hub: Vault, tmp_path: Path) -> None:
    (first,) = signing(changed(store, "list"))
    before = hub.keyring()
    for arguments, code in (
        (["retire", first], "key-state"),
        (["revoke", "0" * 16], "unknown-key"),
        (["revoke", "../x"], "unknown-key"),
        (["rotate", "--root-key", str(tmp_path / "none.pem")], "file-not-found"),
        (["export-root", str(tmp_path / "none" / "root.pem")], "invalid-output"),
        (["export-root", str(store / "fleet" / "keys" / "root.pem")], "invalid-output"),
    ):
        done = inn(*arguments, "--store", str(store))
        assert done.exit_code == 1
        assert done.stderr.startswith(f"error[{code}]"), done.stderr
        assert not done.stdout
    assert inn("retire").exit_code == 2
    assert hub.keyring() == before


def test_the_root_key_moves_out_and_is_given_by_file(store: Path, hub: Vault, tmp_path: Path) -> None:
    target = tmp_path / "root-key.pem"
    exported = changed(store, "export-root", str(target))
    assert exported["keys"][0]["has_private"] is False
    assert KeyPair.load(target).public == hub.root
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o600
    (first,) = signing(exported)
    for arguments in (["rotate"], ["revoke", first]):
        done = inn(*arguments, "--store", str(store))
        assert done.exit_code == 1
        assert done.stderr.startswith("error[root-key-missing]")
    assert sorted(signing(changed(store, "rotate", "--root-key", str(target))).values()) == ["active", "retiring"]
    assert signing(changed(store, "revoke", first, "--root-key", str(target)))[first] == "revoked"
