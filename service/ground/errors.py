"""The error tree of service: every error has a stable code, a message with a way out, and fields for programs.

`service/http/problems.py` maps each code to a status and a title; nothing here knows HTTP. Errors of inn_core happen in
a builder process and arrive as `CoreError`, so that this process never imports inn_core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ServiceError(Exception):
    """Base of all errors of service.

    `code` is a fixed kebab-case name that programs may rely on; `fields` holds the values that the message shows
    (they become members of the HTTP problem).
    """

    code: str = "service-error"

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields


class UnknownModelError(ServiceError, LookupError):
    """No model of this name is registered."""

    code = "unknown-model"

    def __init__(self, model: str, known: Sequence[str] = ()) -> None:
        listed = f"known models: {', '.join(sorted(known)[:10])}" if known else "no model is registered yet"
        super().__init__(f"there is no model '{model}'; {listed}; add one with PUT /models/{model}", model=model)


class UnknownArtifactError(ServiceError, LookupError):
    """The store has no artifact of this digest."""

    code = "unknown-artifact"

    def __init__(self, digest: str) -> None:
        super().__init__(
            f"there is no artifact {digest} in the store; it may have been evicted: ask for it again with POST /export",
            digest=digest,
        )


class UnknownJobError(ServiceError, LookupError):
    """No job of this id is known."""

    code = "unknown-job"

    def __init__(self, job: str) -> None:
        super().__init__(
            "there is no such job; finished jobs are kept as long as what they made, others for a limited time: "
            "repeat the request, its result may be there already",
            job=job[:64],
        )


class InvalidRequestError(ServiceError, ValueError):
    """A request can be read, but what it says is not allowed.

    `errors` names each place: `{"pointer": JSON pointer, "detail": text}`.
    """

    code = "invalid-request"

    def __init__(self, errors: Sequence[Mapping[str, str]], message: str | None = None) -> None:
        listed = [{"pointer": error["pointer"], "detail": error["detail"]} for error in errors]
        text = "; ".join(f"{error['pointer'] or 'the request'}: {error['detail']}" for error in listed[:5])
        super().__init__(message or text, errors=listed)

    @classmethod
    def at(cls, pointer: str, detail: str) -> InvalidRequestError:
        """The error of one place."""
        return cls([{"pointer": pointer, "detail": detail}])


class UnreadableBodyError(ServiceError, ValueError):
    """The body of a request cannot be read at all (not JSON, bad encoding, cut short)."""

    code = "unreadable-body"


class BodyTooLargeError(ServiceError, ValueError):
    """The body of a request is larger than the limit."""

    code = "body-too-large"

    def __init__(self, limit_bytes: int, what: str = "the body of the request") -> None:
        super().__init__(
            f"{what} is larger than the limit of {limit_bytes:,} bytes; send less at a time, "
            "or raise the limit of the hub",
            limit_bytes=limit_bytes,
        )


class NameConflictError(ServiceError, ValueError):
    """A model of this name exists with another checkpoint."""

    code = "name-conflict"

    def __init__(self, model: str, *, existing: str, offered: str) -> None:
        super().__init__(
            f"model '{model}' already exists with checkpoint {existing}, the one offered is {offered}; "
            "take another name, or replace it with ?replace=true",
            model=model,
            existing=existing,
            offered=offered,
        )


class DigestMismatchError(ServiceError, ValueError):
    """Bytes do not have the digest they should have."""

    code = "digest-mismatch"

    def __init__(self, what: str, *, expected: str, found: str) -> None:
        super().__init__(
            f"{what} has digest {found}, expected {expected}; it was damaged or changed on the way: send it again",
            expected=expected,
            found=found,
        )


class QueueFullError(ServiceError, RuntimeError):
    """Too many builds are waiting."""

    code = "queue-full"

    def __init__(self, *, pending: int, limit: int, retry_after_seconds: int) -> None:
        super().__init__(
            f"{pending} builds are waiting or running, the limit is {limit}; try again in {retry_after_seconds} s",
            pending=pending,
            limit=limit,
            retry_after=retry_after_seconds,
        )


class NotReadyError(ServiceError, RuntimeError):
    """The hub is starting or stopping."""

    code = "not-ready"

    def __init__(self, what: str, retry_after_seconds: int = 2) -> None:
        super().__init__(f"{what}; try again in {retry_after_seconds} s", retry_after=retry_after_seconds)


class BuildTimeoutError(ServiceError, TimeoutError):
    """A build took longer than it may."""

    code = "build-timeout"

    def __init__(self, what: str, timeout_seconds: float) -> None:
        super().__init__(
            f"{what} took longer than {timeout_seconds:g} s and was stopped; ask for quality 'instant', "
            "or raise the time limit of the hub",
            timeout_seconds=timeout_seconds,
        )


class StoreFullError(ServiceError, OSError):
    """The store has no room and nothing that may be evicted."""

    code = "store-full"

    def __init__(self, *, needed_bytes: int, capacity_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"the store needs {needed_bytes:,} bytes more and can free {free_bytes:,} (its capacity is "
            f"{capacity_bytes:,} bytes); artifacts in use are never evicted: give the store a larger disk or capacity, "
            "or try again when downloads and sessions have ended",
            needed_bytes=needed_bytes,
            capacity_bytes=capacity_bytes,
            free_bytes=free_bytes,
        )


class StoreInUseError(ServiceError, RuntimeError):
    """Another hub or node has the store folder open; a folder belongs to one process."""

    code = "store-in-use"

    def __init__(self, folder: str) -> None:
        super().__init__(
            f"another process is using the store '{folder}'; stop it, or choose another folder with --store"
        )


class InvalidCatalogueError(ServiceError, ValueError):
    """The catalogue file of the store is none, or was written by another version."""

    code = "invalid-catalogue"


class BuilderFailedError(ServiceError, RuntimeError):
    """A builder process died or met an error it has no name for; details are in the log of the hub only."""

    code = "builder-failed"

    def __init__(self, message: str = "the build failed for a reason inside the hub; its log has the details") -> None:
        super().__init__(message)


class BuilderDiedError(BuilderFailedError):
    """A builder process ended in the middle of a request, or could not start."""

    def __init__(self, operation: str, status: int | None) -> None:
        super().__init__(f"the builder process ended during '{operation}' (status {status}); see the log of the hub")


class JobCancelledError(ServiceError, RuntimeError):
    """A job was cancelled before it had a result."""

    code = "job-cancelled"

    def __init__(self, job: str, reason: str = "it was cancelled") -> None:
        super().__init__(f"job {job} has no result: {reason}; repeat the request to start it again", job=job)


class CoreError(ServiceError, ValueError):
    """An error of inn_core that a builder process reported, carried over by its code."""

    code = "remote-error"

    def __init__(self, code: str, message: str, fields: Mapping[str, Any]) -> None:
        super().__init__(message, **fields)
        self.code = code
