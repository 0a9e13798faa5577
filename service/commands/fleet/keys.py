"""`inn keys`: the keys that a hub signs with, listed, rotated, retired and revoked; also beside a running hub.

The commands change the store's folder `fleet/keys`; a hub that runs on the store notices by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.arguments import JsonOption, check_input_file
from service.terminal import CommandError, note, print_json, print_table, reported_errors

if TYPE_CHECKING:
    from service.signing.keys import KeyPair
    from service.signing.vault import Vault

KEYS_FOLDER = Path("fleet") / "keys"
"""Where a store keeps its keys."""

StoreOption = Annotated[
    Path, typer.Option(metavar="DIR", envvar="INN_STORE", help="Folder that the hub runs on (inn serve --store).")
]
RootKeyOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The root key, when it was moved out of the store.", show_default=False),
]
KeyIdArgument = Annotated[
    str, typer.Argument(metavar="KEY_ID", help="16 digits, as `inn keys list` shows them.", show_default=False)
]
DEFAULT_STORE = Path("store")

app = typer.Typer(
    help="List and change the keys that a hub signs releases with.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("list")
@reported_errors()
def list_keys(store: StoreOption = DEFAULT_STORE, json: JsonOption = False) -> None:
    """Show the root key and the signing keys; releases signed by active and retiring ones count."""
    _show(_vault(store), json=json)


@app.command()
@reported_errors()
def rotate(store: StoreOption = DEFAULT_STORE, root_key: RootKeyOption = None, json: JsonOption = False) -> None:
    """Make a new signing key; the former one becomes retiring: what it signed still counts."""
    vault = _vault(store)
    new = vault.rotate(root=_root(root_key))
    note(f"key {new} signs from now on")
    _show(vault, json=json)


@app.command()
@reported_errors()
def retire(key_id: KeyIdArgument, store: StoreOption = DEFAULT_STORE, json: JsonOption = False) -> None:
    """Delete the private half of a retiring key; what it signed still counts."""
    vault = _vault(store)
    vault.retire(key_id)
    note(f"key {key_id} never signs again")
    _show(vault, json=json)


@app.command()
@reported_errors()
def revoke(
    key_id: KeyIdArgument,
    store: StoreOption = DEFAULT_STORE,
    root_key: RootKeyOption = None,
    json: JsonOption = False,
) -> None:
    """Make worthless what a key signed, for ever; revoking the active key makes a new one."""
    vault = _vault(store)
    vault.revoke(key_id, root=_root(root_key))
    note(f"key {key_id} is revoked; nodes learn it with their next keyring")
    _show(vault, json=json)


@app.command("export-root")
@reported_errors()
def export_root(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="New file for it, on a disk that you lock away.", show_default=False)
    ],
    store: StoreOption = DEFAULT_STORE,
    json: JsonOption = False,
) -> None:
    """Move the private root key out of the store; the hub goes on, and rotate and revoke ask for it with --root-key."""
    if file.exists():
        raise CommandError("invalid-output", f"'{file}' exists already; a key never replaces a file: name a new one")
    if not file.parent.is_dir():
        raise CommandError("invalid-output", f"the folder of '{file}' does not exist; create it first")
    vault = _vault(store)
    key_id = vault.export_root(file)
    note(f"root key {key_id} is in '{file}' and nowhere else; without it no key can be rotated or revoked: keep a copy")
    _show(vault, json=json)


def _vault(store: Path) -> Vault:
    from service.signing.vault import KEYRING_FILE, Vault

    folder = store / KEYS_FOLDER
    if not (folder / KEYRING_FILE).is_file():
        raise CommandError(
            "no-keys", f"'{store}' has no keys yet; a hub makes them when it starts (inn serve --store '{store}')"
        )
    return Vault.open(folder)


def _root(path: Path | None) -> KeyPair | None:
    if path is None:
        return None
    from service.signing.keys import KeyPair

    return KeyPair.load(check_input_file(path, "root key"))


def _show(vault: Vault, *, json: bool) -> None:
    keyring = vault.keyring()
    keys = vault.key_statuses()
    if json:
        result: dict[str, Any] = {
            "version": keyring.version,
            "issued": keyring.issued,
            "expires": keyring.expires,
            "keys": [
                {
                    "key_id": key.key_id,
                    "public": key.public,
                    "role": key.role,
                    "state": key.state,
                    "has_private": key.has_private,
                }
                for key in keys
            ],
        }
        print_json(result)
        return
    print_table(
        ("key", "role", "state", "private half", "public half"),
        [(key.key_id, key.role, key.state, "here" if key.has_private else "not here", key.public) for key in keys],
        title=f"keyring version {keyring.version}",
    )
