"""What a node trusts, in one file that is replaced as a whole: the pinned root, its keyring, what each key has shown.

For each signing key the node keeps the newest release that it signed. What counts is the newest one of all keys that
the keyring still trusts: when a stolen key is revoked, whatever the thief made the node believe goes with it. Releases
of other keys that were issued before that do not come back in its place. A key that was revoked once stays revoked,
whatever a later keyring says: a hub may have been restored from a backup that knows nothing of the theft.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from service.contract.release import Release
from service.ground.files import disk_full_as_error, write_private_file
from service.node.errors import InvalidNodeStateError
from service.signing.envelope import Document
from service.signing.keyring import Keyring

FORMAT = 2


@dataclass(frozen=True)
class LastTrusted:
    """The newest release that a key signed: its version, `content_digest`, and the latest time that it was issued."""

    version: int = 0
    content: str | None = None
    issued: int = 0


@dataclass(frozen=True)
class TrustedState:
    """Content of the file; `root` and `keyring` are set once the node is enrolled.

    Attributes:
        node: whose it is.
        root: the pinned root key as text.
        keyring: the document that it signed.
        token_id: of the token that the node enrolled with last.
        shown: by id of the signing key.
        revoked: ids of all keys that a keyring has ever revoked.
        not_before: releases issued before this time do not count, since what they came before was forgotten.
    """

    node: str
    root: str | None = None
    keyring: Document | None = None
    token_id: str | None = None
    shown: Mapping[str, LastTrusted] = field(default_factory=dict)
    revoked: Sequence[str] = ()
    not_before: int = 0

    @property
    def newest(self) -> LastTrusted:
        """The newest release of any key that counts; version 0 before the first."""
        return max(self.shown.values(), key=lambda one: one.version, default=LastTrusted())

    @property
    def latest_issued(self) -> int:
        """The latest time that a release of any key that counts was issued."""
        return max((one.issued for one in self.shown.values()), default=0)

    def with_release(self, release: Release, signers: Iterable[str]) -> Self:
        """The state once a release has been believed that these keys signed."""
        # Each key answers for its own times only, so that those of a stolen key go with it.
        fresh = {
            key: LastTrusted(
                release.version, release.content_digest, max(release.issued, self.shown.get(key, LastTrusted()).issued)
            )
            for key in signers
        }
        return replace(self, shown={**self.shown, **fresh})

    def with_keyring(self, keyring: Keyring, document: Document, *, token_id: str | None) -> Self:
        """The state once a keyring has been believed; what keys have shown that it does not trust is forgotten.

        Args:
            keyring: with what was revoked before revoked as well.
            document: of the keyring, as it was received.
            token_id: of the token that the node enrolled with last.
        """
        revoked = sorted(keyring.revoked.union(self.revoked))
        shown = {key: one for key, one in self.shown.items() if key in keyring.trusted}
        found = replace(self, root=keyring.root.text, keyring=document, token_id=token_id, shown=shown, revoked=revoked)
        if found.newest.version < self.newest.version:
            found = replace(found, not_before=max(self.not_before, keyring.issued))
        return found

    @classmethod
    def load(cls, path: Path, node: str) -> Self:
        """Read the file; a state of this node that trusts nothing when there is none.

        Raises:
            InvalidNodeStateError: it is damaged, or of another version of the program.
        """
        try:
            fields: Any = json.loads(path.read_bytes())
            if fields.pop("format") != FORMAT:
                raise ValueError("it was written by another version")
            shown = {key: LastTrusted(**one) for key, one in fields.pop("shown").items()}
            state = cls(**fields, shown=shown)
            _check_types(state)
        except FileNotFoundError:
            return cls(node)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidNodeStateError(str(path), str(error)[:200]) from error
        return state

    def save(self, path: Path) -> None:
        """Replace the file, synced to disk.

        Raises:
            StoreFullError: the disk is full; the file is as it was.
        """
        content = json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()
        with disk_full_as_error(path.parent, needed_bytes=len(content)):
            write_private_file(path, content)


def _check_types(state: TrustedState) -> None:
    texts = (state.root, state.token_id, *state.revoked, *(one.content for one in state.shown.values()))
    numbers = [state.not_before, *(number for one in state.shown.values() for number in (one.version, one.issued))]
    if (
        type(state.node) is not str
        or any(value is not None and type(value) is not str for value in texts)
        or any(type(value) is not int or value < 0 for value in numbers)
        or not (state.keyring is None or type(state.keyring) is dict)
        or (state.root is None) != (state.keyring is None)
    ):
        raise ValueError("a member has the wrong type")
