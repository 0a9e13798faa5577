"""The release: what a node is told to run, every member checked, and the rules by which it replaces another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from service.contract.manifest import check_manifest, check_self_test
from service.signing.envelope import Document, canonical, check_plain, sign
from service.signing.errors import ExpiredDocumentError, InvalidDocumentError, ReplayedDocumentError
from service.signing.fields import boolean, choice, integer, lifetime, members, name, number
from service.signing.keyring import Keyring
from service.signing.keys import KeyPair

RELEASE_TYPE = "inn-release/1"
MAX_LATENCY_MS = 86_400_000
MAX_WATCH_SECONDS = 86_400
MAX_WATCH_REQUESTS = 1_000_000_000

_MEMBERS = ("type", "node", "version", "issued", "expires", "rollback", "manifest", "self_test", "policy")


@dataclass(frozen=True)
class Policy:
    """How a node watches a new size, and what makes it go back.

    Args:
        max_error_share: share of failed requests, 0 to 1, above which it goes back.
        max_p95_ms: 95th percentile of latency above which it goes back; None for no bound.
        watch_seconds: how long it watches.
        watch_requests: requests it wants to see before it judges.
    """

    max_error_share: float = 0.05
    max_p95_ms: float | None = None
    watch_seconds: float = 30
    watch_requests: int = 20

    @classmethod
    def parse(cls, value: Any, where: str = "policy", *, partial: bool = False) -> Policy:
        """Read a policy.

        Args:
            value: JSON object.
            where: its place, for messages.
            partial: whether members may be missing; defaults stand in for them.

        Raises:
            InvalidDocumentError: a member is missing, unknown or out of range.
        """
        names = tuple(asdict(cls()))
        fields = asdict(cls()) | members(
            value, where, required=() if partial else names, optional=names if partial else ()
        )
        latency = fields["max_p95_ms"]
        return cls(
            max_error_share=number(fields["max_error_share"], f"{where}/max_error_share", minimum=0, maximum=1),
            max_p95_ms=None
            if latency is None
            else number(latency, f"{where}/max_p95_ms", minimum=0, maximum=MAX_LATENCY_MS),
            watch_seconds=number(
                fields["watch_seconds"], f"{where}/watch_seconds", minimum=0, maximum=MAX_WATCH_SECONDS
            ),
            watch_requests=integer(fields["watch_requests"], f"{where}/watch_requests", maximum=MAX_WATCH_REQUESTS),
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object with all members."""
        return asdict(self)


@dataclass(frozen=True)
class Release:
    """The content of a release document.

    Args:
        node: for whom it is.
        version: grows with every change of what the node should run.
        issued: when it was signed, seconds since the epoch.
        expires: until when it may be activated.
        rollback: whether its content is older than that of the version before, on purpose.
        manifest: of the artifact, as an export gives it.
        self_test: inputs by seed and the outputs they should give.
        policy: how to watch it.
    """

    node: str
    version: int
    issued: int
    expires: int
    rollback: bool
    manifest: Mapping[str, Any]
    self_test: Mapping[str, Any]
    policy: Policy

    @classmethod
    def parse(cls, signed: Mapping[str, Any]) -> Release:
        """Read the content of a release whose signature was checked already.

        Raises:
            InvalidDocumentError: a member is missing, unknown, of the wrong type or out of range.
        """
        where = RELEASE_TYPE
        check_plain(dict(signed), where)
        fields = members(dict(signed), where, required=_MEMBERS)
        choice(fields["type"], f"{where}/type", allowed=(RELEASE_TYPE,))
        issued, expires = lifetime(fields["issued"], fields["expires"], where)
        return cls(
            node=name(fields["node"], f"{where}/node"),
            version=integer(fields["version"], f"{where}/version", minimum=1),
            issued=issued,
            expires=expires,
            rollback=boolean(fields["rollback"], f"{where}/rollback"),
            manifest=check_manifest(fields["manifest"], f"{where}/manifest"),
            self_test=check_self_test(fields["self_test"], f"{where}/self_test"),
            policy=Policy.parse(fields["policy"], f"{where}/policy"),
        )

    @classmethod
    def open(cls, document: bytes | Mapping[str, Any], keyring: Keyring) -> Release:
        """Verify a release document against a keyring and read it; errors as of `Keyring.verify` and `parse`."""
        return cls.parse(keyring.verify(document, RELEASE_TYPE))

    def to_signed(self) -> dict[str, Any]:
        """The content, ready to be signed."""
        return {
            "type": RELEASE_TYPE,
            "node": self.node,
            "version": self.version,
            "issued": self.issued,
            "expires": self.expires,
            "rollback": self.rollback,
            "manifest": dict(self.manifest),
            "self_test": dict(self.self_test),
            "policy": self.policy.to_json(),
        }

    def to_document(self, keys: Sequence[KeyPair]) -> Document:
        """The document, signed; a release that a node would refuse is not.

        Raises:
            InvalidDocumentError: a member is wrong.
        """
        return sign(Release.parse(self.to_signed()).to_signed(), keys)

    @property
    def digest(self) -> str:
        """Digest of the artifact."""
        return str(self.manifest["digest"])

    @property
    def content_digest(self) -> str:
        """`sha256:` of everything but the times: a release signed anew has the same one."""
        content = {key: value for key, value in self.to_signed().items() if key not in ("issued", "expires")}
        return f"sha256:{hashlib.sha256(canonical(content)).hexdigest()}"

    def check_node(self, node: str) -> None:
        """Check that the release is for this node.

        Raises:
            InvalidDocumentError: it is for another one.
        """
        if self.node != node:
            raise InvalidDocumentError(f"{RELEASE_TYPE}/node", f"the release is for node '{self.node}', not '{node}'")

    def check_current(self, trusted_time: int) -> None:
        """Check that the release may be activated; one that is active already needs no check.

        Raises:
            ExpiredDocumentError: it may not any more.
        """
        if trusted_time >= self.expires:
            raise ExpiredDocumentError(
                f"release {self.version} of node '{self.node}'", expires=self.expires, trusted_time=trusted_time
            )

    def check_follows(self, version: int, content_digest: str | None) -> None:
        """Check that the release may follow what is trusted, by version alone, whatever it says of rollback.

        The trusted release itself passes, also when it was signed anew with later times: nothing but the times differs.

        Args:
            version: the greatest version trusted so far; 0 when there is none.
            content_digest: `content_digest` of that release.

        Raises:
            ReplayedDocumentError: the version is lower, or equal while the content differs.
        """
        if self.version < version or (self.version == version and self.content_digest != content_digest):
            raise ReplayedDocumentError(
                f"the release of node '{self.node}'", version=self.version, trusted_version=version
            )
