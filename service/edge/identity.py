"""What a node trusts, on its disk and apart from its artifacts: its own key, the pinned root, the keyring, the newest
release it was shown, and a time that only moves forward.

Everything here survives a power cut: a file is replaced as a whole, and before anything acts on what it says. A clock
that was set back changes nothing, since expiry is judged by the greatest time that a verified document has shown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from service.artifacts.files import disk_full_as_error
from service.edge.errors import InvalidNodeStateError, NodeMismatchError
from service.trust.documents import Document
from service.trust.errors import InvalidDocumentError, InvalidKeyError, UnknownKeyError
from service.trust.keyring import Keyring
from service.trust.keys import KeyPair, PublicKey
from service.trust.probe import Probe
from service.trust.release import Release
from service.trust.secret_files import STAGED_PREFIX, make_private_folder, write_private_file

FOLDER = "trusted"
STATE_FILE = "state.json"
KEY_FILE = "node.key"
FORMAT = 1


@dataclass(frozen=True)
class _State:
    """Content of the state file; `root` and `keyring` are set once the node is enrolled."""

    node: str
    root: str | None = None
    keyring: Document | None = None
    token_id: str | None = None
    release_version: int = 0
    release_content: str | None = None
    trusted_time: int = 0


class Identity:
    """Who a node is and whom it believes. Not thread-safe; every change is on the disk before it counts.

    Args:
        store: the node's folder; the files lie in `trusted/` inside it.
        node: name of the node.
        clock: seconds since the epoch, as the device believes.

    Raises:
        NodeMismatchError: the folder belongs to another node.
        InvalidNodeStateError: a file is damaged.
    """

    def __init__(self, store: Path, node: str, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = store / FOLDER
        self._clock = clock
        make_private_folder(self._folder)
        for stray in self._folder.glob(f"{STAGED_PREFIX}*"):  # of a process that was killed
            stray.unlink()
        self._state = self._load(node)
        if self._state.node != node:
            raise NodeMismatchError(str(store), node=node, owner=self._state.node)
        self._root: PublicKey | None = None
        self._keyring: Keyring | None = None
        try:
            self.key = self._load_key()
            if self._state.root is not None and self._state.keyring is not None:
                self._root = PublicKey.parse(self._state.root)
                self._keyring = Keyring.open(self._state.keyring, self._root)
        except (InvalidKeyError, InvalidDocumentError, UnknownKeyError) as error:
            raise InvalidNodeStateError(str(self._folder), error.message) from error

    @property
    def node(self) -> str:
        """Name of the node."""
        return self._state.node

    @property
    def is_enrolled(self) -> bool:
        """Whether a root key is pinned."""
        return self._keyring is not None

    @property
    def token_id(self) -> str | None:
        """Id of the token that the node enrolled with last."""
        return self._state.token_id

    @property
    def release_version(self) -> int:
        """The greatest version of a release that was believed so far; 0 before the first."""
        return self._state.release_version

    @property
    def trusted_time(self) -> int:
        """The time that expiry is judged by: that of the clock, but never before what verified documents have shown."""
        return max(int(self._clock()), self._state.trusted_time)

    def pin(self, root: PublicKey, document: Document, *, token_id: str) -> None:
        """Believe a hub from now on.

        Args:
            root: its root key, compared with the token's by the caller.
            document: its keyring.
            token_id: of the token that led here.

        Raises:
            UnknownKeyError: another root is pinned already.
            UntrustedSignatureError, InvalidDocumentError, ReplayedDocumentError: of the keyring.
        """
        if self._root is not None and self._root != root:
            raise UnknownKeyError(
                f"this node trusts the hub with root key {self._root.key_id}, the token is of one with {root.key_id}; "
                "to move it, stop it and remove its store",
                key_ids=[root.key_id],
            )
        keyring = Keyring.open(document, root)
        keyring.check_follows(self._keyring)
        self._take_keyring(keyring, document, token_id=token_id)

    def accept_keyring(self, document: Document) -> None:
        """Take a newer keyring, when the pinned root signed it; a new root that the pinned one names is pinned.

        Raises:
            UnknownKeyError, UntrustedSignatureError, InvalidDocumentError, ReplayedDocumentError: it does not count.
        """
        assert self._root is not None
        assert self._keyring is not None
        keyring = Keyring.open(document, self._root)
        keyring.check_follows(self._keyring)
        if keyring.version > self._keyring.version:
            self._take_keyring(keyring, document, token_id=self._state.token_id)

    def check_release(self, document: Document) -> Release:
        """The release in a document, when it is for this node, signed, not older than the newest, and not expired.

        Raises:
            UnknownKeyError, RevokedKeyError, UntrustedSignatureError, InvalidDocumentError, ReplayedDocumentError,
            ExpiredDocumentError: it does not count.
        """
        assert self._keyring is not None
        self._keyring.check_current(self.trusted_time)
        release = Release.open(document, self._keyring)
        release.check_node(self.node)
        release.check_follows(self._state.release_version, self._state.release_content)
        release.check_current(self._time_with(release.issued))
        return release

    def accept_release(self, document: Document) -> Release:
        """As `check_release`; from now on no older release counts."""
        release = self.check_release(document)
        self._keep(
            replace(
                self._state,
                release_version=release.version,
                release_content=release.content_digest,
                trusted_time=self._time_with(release.issued),
            )
        )
        return release

    def check_probe(self, document: Document) -> Probe:
        """The probe in a document; errors as of `check_release`."""
        assert self._keyring is not None
        self._keyring.check_current(self.trusted_time)
        probe = Probe.open(document, self._keyring)
        probe.check_node(self.node)
        probe.check_follows(self._state.release_version)
        probe.check_current(self._time_with(probe.issued))
        return probe

    def _time_with(self, issued: int) -> int:
        return max(self.trusted_time, issued)

    def _take_keyring(self, keyring: Keyring, document: Document, *, token_id: str | None) -> None:
        self._keep(
            replace(
                self._state,
                root=keyring.root.text,
                keyring=document,
                token_id=token_id,
                trusted_time=max(self._state.trusted_time, keyring.issued),
            )
        )
        self._root, self._keyring = keyring.root, keyring

    def _keep(self, state: _State) -> None:
        if state == self._state:
            return
        content = json.dumps({"format": FORMAT, **asdict(state)}, indent=1).encode()
        with disk_full_as_error(self._folder, needed_bytes=len(content)):
            write_private_file(self._folder / STATE_FILE, content)
        self._state = state

    def _load(self, node: str) -> _State:
        path = self._folder / STATE_FILE
        try:
            fields: Any = json.loads(path.read_bytes())
            if fields.pop("format") != FORMAT:
                raise ValueError("it was written by another version")
            state = _State(**fields)
            _check_types(state)
        except FileNotFoundError:
            return _State(node)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidNodeStateError(str(path), str(error)[:200]) from error
        return state

    def _load_key(self) -> KeyPair:
        path = self._folder / KEY_FILE
        if path.exists():
            return KeyPair.load(path)
        if self._state.root is not None:
            raise InvalidNodeStateError(str(path), "it is gone")
        key = KeyPair.generate()
        with disk_full_as_error(self._folder, needed_bytes=0):
            key.save(path, replace=False)
        return key


def _check_types(state: _State) -> None:
    texts = (state.root, state.token_id, state.release_content)
    numbers = (state.release_version, state.trusted_time)
    if (
        type(state.node) is not str
        or any(value is not None and type(value) is not str for value in texts)
        or any(type(value) is not int or value < 0 for value in numbers)
        or not (state.keyring is None or type(state.keyring) is dict)
        or (state.root is None) != (state.keyring is None)
    ):
        raise ValueError("a member has the wrong type")
