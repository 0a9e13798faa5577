"""The vault: the hub's keys on disk, `STORE/fleet/keys/`.

    root.pem               private root key; may be moved away, only changes of the keyring need it
    signing/<key_id>.pem   private signing keys; the one whose key is active signs releases
    keyring.json           the signed keyring: replacing this file is what commits a change
    lock                   held by whoever changes something

A change writes new keys first, replaces the keyring, and then removes what the keyring no longer needs. A crash between
two steps leaves the old state or the new one, and a stray key at most, which the next change removes. Any number of
processes may use one folder: readers notice a change by the keyring file itself.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from service.ground.errors import ServiceError
from service.ground.files import STAGED_PREFIX, locked, make_private_folder, write_private_file
from service.signing.envelope import MAX_DOCUMENT_BYTES, Document, canonical, parse_json, sign
from service.signing.errors import InvalidVaultError, KeyStateError, RootKeyMissingError, UnknownKeyError
from service.signing.keyring import ACTIVE, MAX_KEYS, RETIRING, REVOKED, Keyring, KeyringEntry
from service.signing.keys import KeyPair, PublicKey, is_key_id

KEYRING_SECONDS = 5 * 365 * 86_400
"""Life of a keyring. Long, since one cannot be renewed while the root key is away; every change renews it."""

ROOT_FILE = "root.pem"
SIGNING_FOLDER = "signing"
KEYRING_FILE = "keyring.json"
LOCK_FILE = "lock"


@dataclass(frozen=True)
class KeyStatus:
    """One key, for people.

    Args:
        key_id: its id.
        public: its public half as text.
        role: `root` or `signing`.
        state: `active`, `retiring` or `revoked`; the root is `active`.
        has_private: whether the private half lies in the vault.
    """

    key_id: str
    public: str
    role: str
    state: str
    has_private: bool


@dataclass(frozen=True)
class _Loaded:
    """The keyring as read, its document, the private key that signs, and the file they were read from."""

    stamp: tuple[int, int, int]
    keyring: Keyring
    document: Document
    signer: KeyPair


class Vault:
    """The keys of one hub. Open it with `open`. Thread-safe; changes of other processes are noticed by themselves.

    Args:
        folder: of the vault.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    @classmethod
    def open(cls, folder: Path, *, clock: Callable[[], float] = time.time) -> Self:
        """Open a vault; an empty folder gets a root key, a first signing key and a keyring.

        Raises:
            InvalidVaultError: files are missing or damaged.
            InvalidKeyError: the file of a key is damaged.
        """
        vault = cls(folder, clock)
        make_private_folder(folder)
        make_private_folder(folder / SIGNING_FOLDER)
        with locked(folder / LOCK_FILE):
            if not (folder / KEYRING_FILE).exists():
                vault._create()
            else:
                vault._renew_if_old()
        vault._current()
        return vault

    @property
    def folder(self) -> Path:
        """Where the keys lie."""
        return self._folder

    @property
    def root(self) -> PublicKey:
        """The public root key, which nodes pin."""
        return self.keyring().root

    def keyring(self) -> Keyring:
        """The keyring as it is now."""
        return self._current().keyring

    def keyring_document(self) -> Document:
        """The signed keyring, as nodes fetch it."""
        document: Document = json.loads(json.dumps(self._current().document))
        return document

    def key_statuses(self) -> list[KeyStatus]:
        """All keys: the root first, then signing keys, newest first."""
        keyring = self.keyring()
        root = KeyStatus(keyring.root.key_id, keyring.root.text, "root", ACTIVE, (self._folder / ROOT_FILE).exists())
        return [root] + [
            KeyStatus(entry.key_id, entry.public.text, "signing", entry.state, self._signing(entry.key_id).exists())
            for entry in reversed(keyring.keys)
        ]

    def sign(self, content: Mapping[str, Any]) -> Document:
        """Sign the content of a document with the active key; errors as of `envelope.sign`."""
        return sign(content, [self._current().signer])

    def rotate(self, *, root: KeyPair | None = None) -> str:
        """Make a new signing key active; the former one becomes retiring: what it signed still counts.

        Args:
            root: the root key, when it is not in the vault.

        Returns:
            Id of the new key.

        Raises:
            RootKeyMissingError: the root key is neither given nor in the vault.
        """
        with locked(self._folder / LOCK_FILE):
            keyring = self._read_keyring()[0]
            root_key = self._root_key("making a signing key", keyring, root)
            new = self._new_signing_key()
            entries = [replace(entry, state=RETIRING) if entry.state == ACTIVE else entry for entry in keyring.keys]
            self._commit(keyring, [*entries, KeyringEntry(new.public, ACTIVE)], root_key)
        return new.key_id

    def retire(self, key_id: str) -> None:
        """Delete the private half of a retiring key: it never signs again, what it signed still counts.

        Needs no root key. A key without private half stays as it is.

        Raises:
            UnknownKeyError: there is no such signing key.
            KeyStateError: it is the active one, or revoked.
        """
        with locked(self._folder / LOCK_FILE):
            entry = _entry(self._read_keyring()[0], key_id)
            if entry.state == ACTIVE:
                raise KeyStateError(
                    f"key {key_id} is the active one and signs new releases; make another first: inn keys rotate",
                    key_id=key_id,
                    state=entry.state,
                )
            if entry.state == REVOKED:
                raise KeyStateError(
                    f"key {key_id} is revoked already, which is more than retired", key_id=key_id, state=entry.state
                )
            self._signing(key_id).unlink(missing_ok=True)

    def revoke(self, key_id: str, *, root: KeyPair | None = None) -> None:
        """Make a key's signatures worthless, for ever; revoking the active key makes a new one active.

        Args:
            key_id: the key.
            root: the root key, when it is not in the vault.

        Raises:
            UnknownKeyError: there is no such signing key.
            RootKeyMissingError: the root key is neither given nor in the vault.
        """
        with locked(self._folder / LOCK_FILE):
            keyring = self._read_keyring()[0]
            entry = _entry(keyring, key_id)
            if entry.state == REVOKED:
                return
            root_key = self._root_key(f"revoking key {key_id}", keyring, root)
            entries = [replace(other, state=REVOKED) if other == entry else other for other in keyring.keys]
            if entry.state == ACTIVE:
                entries.append(KeyringEntry(self._new_signing_key().public, ACTIVE))
            self._commit(keyring, entries, root_key)

    def export_root(self, target: Path) -> str:
        """Move the private root key out of the vault into a file of mode 0600, and check it before it is deleted here.

        Returns:
            Id of the root key.

        Raises:
            RootKeyMissingError: it is not in the vault.
            FileExistsError: there is a file at `target`; nothing is replaced.
        """
        with locked(self._folder / LOCK_FILE):
            keyring = self._read_keyring()[0]
            key = self._root_key("moving the root key away", keyring, None)
            key.save(target, replace=False)
            if KeyPair.load(target).public != key.public:
                raise InvalidVaultError(f"'{target}' does not hold what was written to it; the root key stays")
            (self._folder / ROOT_FILE).unlink()
        return key.key_id

    def _create(self) -> None:
        """First use, or one that was cut short: a root key that is there already is taken."""
        strays = self._stored_signing_keys()
        if len(strays) > 1 or (strays and not (self._folder / ROOT_FILE).exists()):
            raise InvalidVaultError(
                f"'{self._folder / KEYRING_FILE}' is missing while there are signing keys; restore it from a backup "
                "(nodes refuse a keyring that starts anew), or begin with an empty folder and enroll every node again"
            )
        path = self._folder / ROOT_FILE
        if not path.exists():
            KeyPair.generate().save(path)
        root = KeyPair.load(path)
        signing = KeyPair.load(self._signing(strays[0])) if strays else self._new_signing_key()
        self._commit(None, [KeyringEntry(signing.public, ACTIVE)], root)

    def _renew_if_old(self) -> None:
        keyring = self._read_keyring()[0]
        if (self._folder / ROOT_FILE).exists() and keyring.expires - self._clock() < KEYRING_SECONDS / 2:
            self._commit(keyring, keyring.keys, self._root_key("renewing the keyring", keyring, None))

    def _commit(self, before: Keyring | None, entries: Sequence[KeyringEntry], root: KeyPair) -> None:
        now = int(self._clock())
        # A clock that was set back must not make the keyring older than the one it follows.
        issued = now if before is None else max(now, before.issued)
        keyring = Keyring(
            # Of the time, so that a vault that was restored from a backup goes on beyond what nodes have seen since.
            version=max(now, 1 if before is None else before.version + 1),
            issued=issued,
            expires=issued + KEYRING_SECONDS,
            keys=tuple(_bounded(entries)),
            root=root.public,
        )
        write_private_file(self._folder / KEYRING_FILE, canonical(keyring.to_document([root])))
        self._remove_strays(keyring)

    def _remove_strays(self, keyring: Keyring) -> None:
        for key_id in self._stored_signing_keys():
            if key_id not in keyring.trusted:
                self._signing(key_id).unlink(missing_ok=True)
        for folder in (self._folder, self._folder / SIGNING_FOLDER):
            for path in folder.glob(f"{STAGED_PREFIX}*"):
                path.unlink(missing_ok=True)

    def _new_signing_key(self) -> KeyPair:
        key = KeyPair.generate()
        key.save(self._signing(key.key_id))
        return key

    def _signing(self, key_id: str) -> Path:
        if not is_key_id(key_id):
            raise UnknownKeyError(f"'{key_id[:40]}' is no id of a key: 16 digits 0-9a-f; list them with inn keys list")
        return self._folder / SIGNING_FOLDER / f"{key_id}.pem"

    def _stored_signing_keys(self) -> list[str]:
        return sorted(path.stem for path in (self._folder / SIGNING_FOLDER).glob("*.pem") if is_key_id(path.stem))

    def _root_key(self, action: str, keyring: Keyring, given: KeyPair | None) -> KeyPair:
        path = self._folder / ROOT_FILE
        if given is None and not path.exists():
            raise RootKeyMissingError(action, keyring.root.key_id)
        key = KeyPair.load(path) if given is None else given
        if key.public != keyring.root:
            where = f"'{path}'" if given is None else "the root key given"
            raise InvalidVaultError(f"{where} is key {key.key_id}, the keyring's root is {keyring.root.key_id}")
        return key

    def _current(self) -> _Loaded:
        """What is on disk now; read again only when the file of the keyring is another one."""
        with self._lock:
            if self._loaded is None or self._loaded.stamp != self._stamp():
                self._loaded = self._read()
            return self._loaded

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = (self._folder / KEYRING_FILE).stat()
        except FileNotFoundError as exc:
            raise InvalidVaultError(f"'{self._folder / KEYRING_FILE}' is missing; restore it from a backup") from exc
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> _Loaded:
        stamp = self._stamp()
        keyring, document = self._read_keyring()
        try:
            signer = self._signer(keyring)
        except InvalidVaultError:
            # The keyring may have been replaced, and its former keys deleted, between the two reads.
            if stamp == self._stamp():
                raise
            return self._read()
        return _Loaded(stamp, keyring, document, signer)

    def _read_keyring(self) -> tuple[Keyring, Document]:
        path = self._folder / KEYRING_FILE
        with path.open("rb") as file:
            content = file.read(MAX_DOCUMENT_BYTES + 1)
        try:
            document: Any = parse_json(content, str(path))
            root = PublicKey.parse(document["signed"]["root"]["public"])
            return Keyring.open(document, root), document
        except (ServiceError, KeyError, TypeError) as exc:
            raise InvalidVaultError(f"'{path}' is damaged ({exc}); restore it from a backup") from exc

    def _signer(self, keyring: Keyring) -> KeyPair:
        for entry in keyring.keys:
            # Another process may delete the file at any moment.
            with contextlib.suppress(FileNotFoundError):
                if entry.state == ACTIVE:
                    key = KeyPair.load(self._signing(entry.key_id))
                    if key.public == entry.public:
                        return key
        raise InvalidVaultError(
            f"no active signing key has its private half in '{self._folder / SIGNING_FOLDER}'; "
            "restore it from a backup, or make another: inn keys rotate"
        )


def _entry(keyring: Keyring, key_id: str) -> KeyringEntry:
    for entry in keyring.keys:
        if entry.key_id == key_id:
            return entry
    raise UnknownKeyError(
        f"the vault has no signing key '{key_id[:40]}'; it has {', '.join(entry.key_id for entry in keyring.keys)}",
        key_id=key_id[:40],
    )


def _bounded(entries: Sequence[KeyringEntry]) -> list[KeyringEntry]:
    """Within `MAX_KEYS`: the oldest revoked keys go first (unknown ones count as little), then retiring ones."""
    kept = list(entries)
    for state in (REVOKED, RETIRING):
        for entry in list(kept):
            if len(kept) > MAX_KEYS and entry.state == state:
                kept.remove(entry)
    return kept
