"""What surrounds every request: its id, an access log line, metrics, and a 500 that shows nothing.

Pure ASGI, since the generic middleware classes of frameworks cost more than a cached export itself.
"""

from __future__ import annotations

import logging
import time
import uuid

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.ground.metrics import FAST, counter, histogram
from service.http.problems import internal_problem

log = logging.getLogger(__name__)
access_log = logging.getLogger("service.access")

SHOWN_PATH = 200  # characters of a path in the log
CLIENT_CLOSED = 499  # status in log and metrics of a request whose client went away before the answer

# `route` is the path template.
_REQUESTS = counter("inn_http_requests_total", "Requests answered.", ["route", "code"])
_REQUEST_SECONDS = histogram(
    "inn_http_request_duration_seconds", "Time from a request to the end of its answer.", ["route"], buckets=FAST
)


def instance_of(scope: Scope) -> str:
    """`urn:uuid:` and the id of the request."""
    return f"urn:uuid:{scope['inn.request_id']}"


class RequestMiddleware:
    """Gives each request an id, answers what nobody caught, logs and counts.

    Args:
        app: what is surrounded.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["inn.request_id"] = _request_id(scope)
        id_header = (b"x-request-id", request_id.encode())
        status = 0
        n_bytes = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status, n_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], id_header, (b"x-content-type-options", b"nosniff")]
            else:
                n_bytes += len(message.get("body", b""))
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or CLIENT_CLOSED
        except Exception:
            log.exception("request failed", extra={"request_id": request_id})
            if status == 0:
                await internal_problem(instance_of(scope))(scope, receive, send_with_id)
            else:  # too late for another answer: only breaking off tells the client that this one is not whole
                raise
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unknown")
            _REQUESTS.labels(route, str(status)).inc()
            _REQUEST_SECONDS.labels(route).observe(seconds)
            if access_log.isEnabledFor(logging.INFO):
                access_log.info(
                    "request answered",
                    extra={
                        "request_id": request_id,
                        "method": scope["method"][:20],
                        "path": scope["path"][:SHOWN_PATH],
                        "status": status,
                        "seconds": round(seconds, 6),
                        "bytes_sent": n_bytes,
                        "client": (scope.get("client") or ("",))[0],
                    },
                )


def _request_id(scope: Scope) -> str:
    """The id that a proxy in front gave the request when it is a UUID, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            try:
                return str(uuid.UUID(value.decode("ascii")))
            except ValueError:
                break
    return str(uuid.uuid4())
