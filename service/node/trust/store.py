"""What a node trusts, on its disk and apart from its artifacts: its own key, the pinned root, the keyring, the newest
release it was shown, and a time that only moves forward.

Everything here survives a power cut: a file is replaced as a whole, and before anything acts on what it says. A clock
that was set back changes nothing, since expiry is judged by the greatest time that a verified document has shown. A
signing key that was stolen does no lasting harm: once the root key has revoked it, nothing counts that it signed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from service.contract.measurement_order import MeasurementOrder
from service.contract.release import Release
from service.ground.files import STAGED_PREFIX, disk_full_as_error, make_private_folder
from service.node.errors import InvalidNodeStateError, NodeMismatchError
from service.node.trust.state import TrustedState
from service.signing.envelope import Document, trusted_time
from service.signing.errors import ExpiredDocumentError, InvalidDocumentError, InvalidKeyError, UnknownKeyError
from service.signing.fields import MAX_SECONDS
from service.signing.keyring import Keyring
from service.signing.keys import KeyPair, PublicKey

FOLDER = "trusted"
STATE_FILE = "state.json"
KEY_FILE = "node.key"


class TrustStore:
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
        self._state = TrustedState.load(self._folder / STATE_FILE, node)
        if self._state.node != node:
            raise NodeMismatchError(str(store), node=node, owner=self._state.node)
        self._root: PublicKey | None = None
        self._keyring: Keyring | None = None
        try:
            self.key = self._load_key()
            if self._state.root is not None and self._state.keyring is not None:
                self._root = PublicKey.parse(self._state.root)
                self._keyring = self._opened(self._state.keyring, self._root)
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
        """The greatest version of a release that was believed so far and still counts; 0 before the first."""
        return self._state.newest.version

    @property
    def trusted_time(self) -> int:
        """The time that expiry is judged by: that of the clock, never before what documents that count have shown."""
        signed = 0 if self._keyring is None else self._keyring.issued
        return trusted_time(clock=self._clock(), seen=(signed, self._state.latest_issued))

    def proof(self) -> dict[str, int]:
        """What a report says of this: `{"time", "version"}`; the hub signs so that it counts from there."""
        return {"time": min(self.trusted_time, MAX_SECONDS), "version": self.release_version}

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
        keyring = self._opened(document, root)
        keyring.check_follows(self._keyring)
        self._take_keyring(keyring, document, token_id=token_id)

    def accept_keyring(self, document: Document) -> None:
        """Take a newer keyring, when the pinned root signed it; a new root that the pinned one names is pinned.

        What releases have shown that only keys signed which it does not trust is forgotten: their versions, and the
        times that they were issued. Keys that were revoked before stay revoked.

        Raises:
            UnknownKeyError, UntrustedSignatureError, InvalidDocumentError, ReplayedDocumentError: it does not count.
        """
        assert self._root is not None
        assert self._keyring is not None
        keyring = self._opened(document, self._root)
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
        release = Release.open(document, self._keyring)
        release.check_node(self.node)
        newest = self._state.newest
        release.check_follows(newest.version, newest.content)
        self._check_times(self._keyring, release)
        return release

    def accept_release(self, document: Document) -> Release:
        """As `check_release`; from now on no older release counts."""
        release = self.check_release(document)
        assert self._keyring is not None
        signers = [one["key_id"] for one in document["signatures"] if one["key_id"] in self._keyring.trusted]
        self._keep(self._state.with_release(release, signers))
        return release

    def check_order(self, document: Document) -> MeasurementOrder:
        """The probe in a document; errors as of `check_release`."""
        assert self._keyring is not None
        probe = MeasurementOrder.open(document, self._keyring)
        probe.check_node(self.node)
        probe.check_follows(self.release_version)
        self._check_times(self._keyring, probe)
        return probe

    def _opened(self, document: Document, root: PublicKey) -> Keyring:
        """A keyring that the root signed; what was revoked before stays so."""
        return Keyring.open(document, root).with_revoked(self._state.revoked)

    def _check_times(self, keyring: Keyring, document: Release | MeasurementOrder) -> None:
        """Check that neither a document nor the keyring is over at the time that they themselves show.

        A release that was issued after the end of the keyring does not count, so nothing that a signing key signs moves
        the trusted time further than to there.
        """
        now = max(self.trusted_time, document.issued)
        keyring.check_current(now)
        document.check_current(now)
        if document.issued < self._state.not_before:
            what = f"version {document.version}, which was issued before a key was revoked,"
            raise ExpiredDocumentError(what, expires=self._state.not_before, trusted_time=now)

    def _take_keyring(self, keyring: Keyring, document: Document, *, token_id: str | None) -> None:
        self._keep(self._state.with_keyring(keyring, document, token_id=token_id))
        self._root, self._keyring = keyring.root, keyring

    def _keep(self, state: TrustedState) -> None:
        if state != self._state:
            state.save(self._folder / STATE_FILE)
            self._state = state

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
