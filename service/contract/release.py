"""The release: what a node is told to run, every member checked, and the rules by which it replaces another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from service.contract.manifest import check_manifest, check_self_test
from service.contract.reading import Name, Positive, Time, check_lifetime, check_type, read
from service.signing.envelope import Document, canonical, check_plain, sign
from service.signing.errors import ExpiredDocumentError, InvalidDocumentError, ReplayedDocumentError
from service.signing.keyring import Keyring
from service.signing.keys import KeyPair

RELEASE_TYPE = "inn-release/1"
MAX_LATENCY_MS = 3.6e6
MAX_WATCH_SECONDS = 86_400.0
MAX_WATCH_REQUESTS = 1_000_000


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """How a node watches a new size, and what makes it go back.

    Args:
        max_error_share: share of failed requests, 0 to 1, above which it goes back.
        max_p95_ms: 95th percentile of latency above which it goes back; None for no bound.
        watch_seconds: how long it watches.
        watch_requests: requests it wants to see before it judges.
    """

    max_error_share: Annotated[float, Meta(ge=0, le=1)] = 0.05
    max_p95_ms: Annotated[float, Meta(gt=0, le=MAX_LATENCY_MS)] | None = None
    watch_seconds: Annotated[float, Meta(ge=0, le=MAX_WATCH_SECONDS)] = 30
    watch_requests: Annotated[int, Meta(ge=0, le=MAX_WATCH_REQUESTS)] = 20

    @classmethod
    def parse(cls, value: dict[str, Any], where: str = "policy") -> Policy:
        """Read a policy with all its members.

        Raises:
            InvalidDocumentError: a member is missing, unknown or out of range; `where` is the place of the policy.
        """
        policy: Policy = read(value, cls, where)
        for member in cls.__struct_fields__:
            if member not in value:
                raise InvalidDocumentError(where, f"the member '{member}' is missing")
        return policy

    def to_json(self) -> dict[str, Any]:
        """As a JSON object with all members."""
        return msgspec.structs.asdict(self)


class Release(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=RELEASE_TYPE):
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

    node: Name
    version: Positive
    issued: Time
    expires: Time
    rollback: bool
    manifest: dict[str, Any]
    self_test: dict[str, Any]
    policy: Policy

    @classmethod
    def parse(cls, signed: Mapping[str, Any]) -> Release:
        """Read the content of a release whose signature was checked already.

        Raises:
            InvalidDocumentError: a member is missing, unknown, of the wrong type or out of range.
        """
        check_plain(dict(signed), RELEASE_TYPE)
        check_type(dict(signed), RELEASE_TYPE)
        release: Release = read(dict(signed), cls, RELEASE_TYPE)
        check_lifetime(release.issued, release.expires, RELEASE_TYPE)
        check_manifest(release.manifest, f"{RELEASE_TYPE}/manifest")
        check_self_test(release.self_test, f"{RELEASE_TYPE}/self_test")
        Policy.parse(signed["policy"], f"{RELEASE_TYPE}/policy")
        return release

    @classmethod
    def open(cls, document: bytes | Mapping[str, Any], keyring: Keyring) -> Release:
        """Verify a release document against a keyring and read it; errors as of `Keyring.verify` and `parse`."""
        return cls.parse(keyring.verify(document, RELEASE_TYPE))

    def to_signed(self) -> dict[str, Any]:
        """The content, ready to be signed.

        Raises:
            InvalidDocumentError: a member is wrong, and nodes would refuse the release.
        """
        content: dict[str, Any] = msgspec.to_builtins(self)
        Release.parse(content)
        return content

    def to_document(self, keys: Sequence[KeyPair]) -> Document:
        """The document, signed; errors as of `to_signed` and `sign`."""
        return sign(self.to_signed(), keys)

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
