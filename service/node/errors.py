"""What stops a node from taking up what its hub wants, and which of it passes by itself.

A node never stops serving for any of these. A *transient* cause is tried again with growing pauses; any other holds for
its generation, which is not tried again until the hub changes it.
"""

from __future__ import annotations

from service.ground.errors import DigestMismatchError, ServiceError, StoreFullError
from service.signing.errors import (
    ClockSkewError,
    ExpiredDocumentError,
    InvalidDocumentError,
    ReplayedDocumentError,
    RevokedKeyError,
    UnknownKeyError,
    UntrustedSignatureError,
)


class HubUnreachableError(ServiceError, ConnectionError):
    """No answer from the hub: no network, no such host, a connection that broke or took too long."""

    code = "hub-unreachable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the hub cannot be reached ({reason}); this node goes on with what it has and tries again")


class HubRefusedError(ServiceError, RuntimeError):
    """The hub answered with a problem."""

    code = "hub-refused"

    def __init__(self, status: int, code: str, detail: str, retry_after: int | None = None) -> None:
        super().__init__(f"the hub answered {status} {code}: {detail}", status=status, problem=code)
        self.status = status
        self.problem = code
        if retry_after is not None:
            self.fields["retry_after"] = retry_after


class InvalidAnswerError(ServiceError, ValueError):
    """The hub answered something that the protocol does not have."""

    code = "invalid-answer"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}; is the address that of a hub, and nothing in between changes its answers?")


class DownloadInterruptedError(ServiceError, ConnectionError):
    """A download ended before it was whole, or went too slowly; what is there is kept and goes on from there."""

    code = "download-interrupted"

    def __init__(self, digest: str, *, done_bytes: int, total_bytes: int, reason: str) -> None:
        super().__init__(
            f"the download of {digest} stopped at {done_bytes:,} of {total_bytes:,} bytes ({reason}); "
            "it goes on from there",
            done_bytes=done_bytes,
            total_bytes=total_bytes,
        )


class ErrorShareExceededError(ServiceError, RuntimeError):
    """Too many requests failed after a switch."""

    code = "error-share-exceeded"

    def __init__(self, *, errors: int, requests: int, limit: float) -> None:
        super().__init__(
            f"{errors} of {requests} requests failed after the switch, {limit:.0%} may; "
            "the previous size serves again: look at the log of this node, then ask for another size",
            errors=errors,
            requests=requests,
        )


class LatencyExceededError(ServiceError, RuntimeError):
    """Requests took too long after a switch."""

    code = "latency-exceeded"

    def __init__(self, *, p95_ms: float, limit_ms: float) -> None:
        super().__init__(
            f"p95 was {p95_ms:.3g} ms after the switch, {limit_ms:.3g} ms are allowed; the previous size serves again: "
            "ask for a smaller size or allow more",
            p95_ms=p95_ms,
            limit_ms=limit_ms,
        )


class CrashedInTrialError(ServiceError, RuntimeError):
    """The process ended again and again while it loaded or watched a new size."""

    code = "crashed-in-trial"

    def __init__(self, starts: int) -> None:
        super().__init__(
            f"the node ended {starts} times while it tried this size, so it stays with the last good one; "
            "the size may need more memory than there is: ask for a smaller one"
        )


class DamagedArtifactError(ServiceError, RuntimeError):
    """The file of the active artifact is damaged or gone."""

    code = "artifact-damaged"

    def __init__(self, digest: str, then: str) -> None:
        super().__init__(f"the file of artifact {digest} is damaged or gone; {then}", digest=digest)


class NotEnrolledError(ServiceError, RuntimeError):
    """The node has no hub yet and no token to enroll with."""

    code = "not-enrolled"

    def __init__(self, node: str) -> None:
        super().__init__(
            f"node '{node}' is not enrolled and has no token; make one on the hub with 'inn fleet token --node {node}' "
            "and give it with --token or --token-file"
        )


class EnrolmentRefusedError(ServiceError, RuntimeError):
    """The hub does not take the node in."""

    code = "enrolment-refused"

    def __init__(self, node: str, code: str, detail: str) -> None:
        super().__init__(
            f"the hub does not take node '{node}' in ({code}: {detail}); make a new token with "
            f"'inn fleet token --node {node}'",
            problem=code,
        )


class NodeMismatchError(ServiceError, ValueError):
    """The store folder belongs to a node of another name."""

    code = "node-mismatch"

    def __init__(self, store: str, *, node: str, owner: str) -> None:
        super().__init__(
            f"the store '{store}' belongs to node '{owner}', not '{node}'; start with --node {owner}, or take another "
            "folder with --store"
        )


class InvalidNodeStateError(ServiceError, ValueError):
    """The file of a node's trusted state is damaged."""

    code = "invalid-node-state"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"'{path}' is damaged ({reason}); restore it from a copy, or move the folder away and "
            "enroll with a new token"
        )


UNVERIFIED = (
    UntrustedSignatureError,
    UnknownKeyError,
    RevokedKeyError,
    ReplayedDocumentError,
    ExpiredDocumentError,
    InvalidDocumentError,
)
"""A document that fails these says nothing that could be believed, not even which generation it is for: the node stays
where it is and asks again, with growing pauses."""

TRANSIENT = (
    HubUnreachableError,
    HubRefusedError,
    InvalidAnswerError,
    DownloadInterruptedError,
    DigestMismatchError,
    StoreFullError,
    ExpiredDocumentError,
    ClockSkewError,
)
"""Causes that may pass while the generation stays the same."""
