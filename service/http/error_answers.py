"""Every error that leaves a route becomes a problem, in any Starlette app; and what a problem means."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from service.ground.errors import NotReadyError, ServiceError
from service.http.errors import MethodNotAllowedError, UnknownRouteError
from service.http.middleware import instance_of
from service.http.problems import MEDIA_TYPE, PROBLEMS, problem_response, problem_type, status_of

log = logging.getLogger(__name__)


async def get_problem(request: Request) -> Response:
    """What a problem type means: its fixed title and status."""
    code = request.path_params["code"]
    if code not in PROBLEMS:
        raise UnknownRouteError
    status, title = PROBLEMS[code]
    return Response(
        orjson.dumps({"type": problem_type(code), "title": title, "status": status}), media_type="application/json"
    )


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    status = status_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        fields = {"request_id": request.scope["inn.request_id"], "code": error.code, "detail": error.message}
        # A full queue or store is a state that the message explains; only what is 500 needs a traceback.
        unexplained = status == HTTPStatus.INTERNAL_SERVER_ERROR
        level = logging.ERROR if unexplained else logging.WARNING
        log.log(
            logging.DEBUG if isinstance(error, NotReadyError) else level,  # what a probe asks for every few seconds
            "request failed",
            exc_info=error if unexplained else None,
            extra=fields,
        )
    return problem_response(error, instance_of(request.scope))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem_response(UnknownRouteError(), instance_of(request.scope))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed_methods(request)
        return problem_response(MethodNotAllowedError(request.method, allowed), instance_of(request.scope))
    title = HTTPStatus(error.status_code).phrase
    body = {"type": "about:blank", "title": title, "status": error.status_code, "instance": instance_of(request.scope)}
    return Response(orjson.dumps(body), error.status_code, error.headers, media_type=MEDIA_TYPE)


def _allowed_methods(request: Request) -> list[str]:
    """Methods of every route with this path: the framework only tells those of the first."""
    methods: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] != Match.NONE:
            methods |= set(getattr(route, "methods", None) or ())
    return sorted(methods)


ERROR_ANSWERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    ServiceError: _service_error,
    HTTPException: _http_exception,
}
"""Exception handlers, as Starlette takes them."""
