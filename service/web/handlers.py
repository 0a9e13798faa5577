"""Exception handlers: every error that leaves a route becomes a problem, the framework's own included."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from service.errors import InvalidRequestError, ServiceError
from service.web.errors import MethodNotAllowedError, UnknownRouteError
from service.web.middleware import instance_of
from service.web.problems import MEDIA_TYPE, problem_response, status_of

log = logging.getLogger(__name__)


def install_problem_handlers(app: FastAPI) -> None:
    """Make the app answer errors as problems."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    status = status_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        fields = {"request_id": request.scope["inn.request_id"], "code": error.code, "detail": error.message}
        # A full queue or store is a state that the message explains; only what is 500 needs a traceback.
        unexplained = status == HTTPStatus.INTERNAL_SERVER_ERROR
        log.log(
            logging.ERROR if unexplained else logging.WARNING,
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


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [{"pointer": _pointer(entry["loc"]), "detail": str(entry["msg"])} for entry in error.errors()]
    return problem_response(InvalidRequestError(errors), instance_of(request.scope))


def _allowed_methods(request: Request) -> list[str]:
    """Methods of every route with this path: the framework only tells those of the first."""
    methods: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] != Match.NONE:
            methods |= set(getattr(route, "methods", None) or ())
    return sorted(methods)


def _pointer(location: Sequence[int | str]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)
