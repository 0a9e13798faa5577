"""Errors that only exist over HTTP: no such route, a body that cannot be taken, a range outside the file."""

from __future__ import annotations

from collections.abc import Sequence

from service.ground.errors import ServiceError


class UnknownRouteError(ServiceError, LookupError):
    """Nothing is served under this path."""

    code = "unknown-route"

    def __init__(self) -> None:
        super().__init__("nothing is served under this path; see /docs for what is")


class MethodNotAllowedError(ServiceError, ValueError):
    """The path exists, the method does not."""

    code = "method-not-allowed"

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        super().__init__(
            f"{method[:20]} is not possible here; use {' or '.join(allowed) or 'another path'}", allowed=list(allowed)
        )


class InvalidBudgetError(ServiceError, ValueError):
    """The target of a request is missing, given twice, or no positive integer."""

    code = "invalid-budget"

    def __init__(self, errors: Sequence[dict[str, str]]) -> None:
        listed = list(errors)
        super().__init__("; ".join(f"{error['pointer']}: {error['detail']}" for error in listed), errors=listed)


class UnsupportedBudgetError(ServiceError, ValueError):
    """The target is one that this hub cannot plan for."""

    code = "unsupported-budget"

    def __init__(self, member: str, available: Sequence[str]) -> None:
        detail = f"this hub cannot plan for '{member}'; use one of {', '.join(available)}"
        super().__init__(detail, errors=[{"pointer": f"/{member}", "detail": detail}])


class UnsupportedEncodingError(ServiceError, ValueError):
    """The body is compressed in a way that is not undone here."""

    code = "unsupported-encoding"

    def __init__(self, encoding: str) -> None:
        super().__init__(f"Content-Encoding '{encoding[:40]}' is not supported; use gzip, deflate or none")


class BodyTimeoutError(ServiceError, TimeoutError):
    """The client stopped sending in the middle of a body."""

    code = "body-timeout"

    def __init__(self, idle_seconds: float) -> None:
        super().__init__(f"no byte of the body arrived for {idle_seconds:g} s; send the request again")


class RangeNotSatisfiableError(ServiceError, ValueError):
    """The range asked for lies outside the file."""

    code = "range-not-satisfiable"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"the range lies outside the {size_bytes:,} bytes of the file", size_bytes=size_bytes)
