"""`inn keys`: the keys that a hub signs with, listed, rotated, retired and revoked; also beside a running hub.

The commands change the store's folder `fleet/keys`; a hub that runs on the store notices by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.arguments import JsonOption, check_input_file, takes
from service.terminal import CommandError, note, print_result, print_table, reported_errors

if TYPE_CHECKING:
    from service.signing.keys import KeyPair
    from service.signing.vault import Vault

KEYS_FOLDER = Path("fleet") / "keys"
"""Where a store keeps its keys."""

RootKeyOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The root key, when it was moved out of the store.", show_default=False),
]
KeyIdArgument = Annotated[
    str, typer.Argument(metavar="KEY_ID", help="16 digits, as `inn keys list` shows them.", show_default=False)
]

app = typer.Typer(
    help="List and change the keys that a hub signs releases with.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def open_vault(
    store: Annotated[
        Path, typer.Option(metavar="DIR", envvar="INN_STORE", help="Folder that the hub runs on (inn serve --store).")
    ] = Path("store"),
) -> Vault:
    """The keys of a store (for `takes`).

    Raises:
        CommandError: `no-keys`.
    """
    from service.signing.vault import KEYRING_FILE, Vault

    folder = store / KEYS_FOLDER
    if not (folder / KEYRING_FILE).is_file():
        raise CommandError(
            "no-keys", f"'{store}' has no keys yet; a hub makes them when it starts (inn serve --store '{store}')"
        )
    return Vault.open(folder)


@app.command("list")
@reported_errors()
@takes(vault=open_vault)
def list_keys(vault: Vault, json: JsonOption = False) -> None:
    """Show the root key and the signing keys; releases signed by active and retiring ones count."""
    _show(vault, json=json)


@app.command()
@reported_errors()
@takes(vault=open_vault)
def rotate(vault: Vault, root_key: RootKeyOption = None, json: JsonOption = False) -> None:
    """Make a new signing key; the former one becomes retiring: what it signed still counts."""
    new = vault.rotate(root=_root(root_key))
    note(f"key {new} signs from now on")
    _show(vault, json=json)


@app.command()
@reported_errors()
@takes(vault=open_vault)
def retire(key_id: KeyIdArgument, vault: Vault, json: JsonOption = False) -> None:
    """Delete the private half of a retiring key; what it signed still counts."""
    vault.retire(key_id)
    note(f"key {key_id} never signs again")
    _show(vault, json=json)


@app.command()
@reported_errors()
@takes(vault=open_vault)
def revoke(key_id: KeyIdArgument, vault: Vault, root_key: RootKeyOption = None, json: JsonOption = False) -> None:
    """Make worthless what a key signed, for ever; revoking the active key makes a new one."""
    vault.revoke(key_id, root=_root(root_key))
    note(f"key {key_id} is revoked; nodes learn it with their next keyring")
    _show(vault, json=json)


@app.command("export-root")
@reported_errors()
@takes(vault=open_vault)
def export_root(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="New file for it, on a disk that you lock away.", show_default=False)
    ],
    vault: Vault,
    json: JsonOption = False,
) -> None:
    """Move the private root key out of the store; the hub goes on, and rotate and revoke ask for it with --root-key."""
    if file.exists():
        raise CommandError("invalid-output", f"'{file}' exists already; a key never replaces a file: name a new one")
    if not file.parent.is_dir():
        raise CommandError("invalid-output", f"the folder of '{file}' does not exist; create it first")
    key_id = vault.export_root(file)
    note(f"root key {key_id} is in '{file}' and nowhere else; without it no key can be rotated or revoked: keep a copy")
    _show(vault, json=json)


def _root(path: Path | None) -> KeyPair | None:
    if path is None:
        return None
    from service.signing.keys import KeyPair

    return KeyPair.load(check_input_file(path, "root key"))


def _show(vault: Vault, *, json: bool) -> None:
    keyring = vault.keyring()
    members = ("key_id", "public", "role", "state", "has_private")
    result = {
        "version": keyring.version,
        "issued": keyring.issued,
        "expires": keyring.expires,
        "keys": [{name: getattr(key, name) for name in members} for key in vault.key_statuses()],
    }
    print_result(result, _print_keys, json=json)


def _print_keys(keyring: Mapping[str, Any]) -> None:
    print_table(
        ("key", "role", "state", "private half", "public half"),
        [
            (key["key_id"], key["role"], key["state"], "here" if key["has_private"] else "not here", key["public"])
            for key in keyring["keys"]
        ],
        title=f"keyring version {keyring['version']}",
    )
