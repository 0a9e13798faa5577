"""Errors of inference: an input that does not fit the network, and a runtime that cannot take the request now."""

from __future__ import annotations

from service.ground.errors import ServiceError


class InvalidInputError(ServiceError, ValueError):
    """Base of all errors about the inputs of one inference request.

    Every child carries `errors`, a list of `{"pointer", "detail"}` as in RFC 9457, with JSON pointers into the body.
    """

    code = "invalid-input"

    def __init__(self, detail: str, *, pointer: str) -> None:
        super().__init__(detail, errors=[{"pointer": pointer, "detail": detail}])


class UnknownInputError(InvalidInputError):
    """The request names an input that the network does not have."""

    code = "unknown-input"


class MissingInputError(InvalidInputError):
    """The request leaves out an input of the network."""

    code = "missing-input"


class InputShapeError(InvalidInputError):
    """An input has the wrong number of dimensions, a wrong dimension, ragged rows or no samples."""

    code = "input-shape"


class InputTypeError(InvalidInputError):
    """An element is no number of the input's type: a string, null, a boolean, a fraction for an integer input."""

    code = "input-type"


class InputNotFiniteError(InvalidInputError):
    """An element is NaN or infinite, or too large for the input's type."""

    code = "input-not-finite"


class InferenceFailedError(ServiceError, RuntimeError):
    """ONNX Runtime refused to run the network on these inputs."""

    code = "inference-failed"

    def __init__(self, digest: str) -> None:
        super().__init__(
            "ONNX Runtime could not run the network on these inputs; check that their sizes are ones it was made for",
            digest=digest,
        )


class SessionsBusyError(ServiceError, RuntimeError):
    """Every session slot is in use by running requests."""

    code = "sessions-busy"

    def __init__(self, limit: int, *, retry_after: int) -> None:
        super().__init__(
            f"all {limit} sessions are busy with running requests; try again in {retry_after} s or raise "
            "INN_SESSIONS_MAX and INN_SESSION_MEMORY_BYTES",
            limit=limit,
            retry_after=retry_after,
        )


class SessionTooLargeError(ServiceError, RuntimeError):
    """One artifact needs more memory than all sessions may use together."""

    code = "session-too-large"

    def __init__(self, digest: str, *, needed_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"artifact {digest} needs about {needed_bytes:,} bytes of session memory, the limit is {limit_bytes:,}; "
            "ask for a smaller size or raise INN_SESSION_MEMORY_BYTES",
            digest=digest,
            needed_bytes=needed_bytes,
            limit_bytes=limit_bytes,
        )


class InferenceQueueFullError(ServiceError, RuntimeError):
    """Too many requests wait for one network."""

    code = "inference-queue-full"

    def __init__(self, pending: int, *, retry_after: int) -> None:
        super().__init__(
            f"{pending} requests are waiting for this network; try again in {retry_after} s",
            pending=pending,
            retry_after=retry_after,
        )
