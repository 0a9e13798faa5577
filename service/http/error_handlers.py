"""Exception handlers of a FastAPI app: every error becomes a problem, the framework's own included."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.ground.errors import InvalidRequestError
from service.http.error_answers import ERROR_ANSWERS
from service.http.middleware import instance_of
from service.http.problems import problem_response


def install_problem_handlers(app: FastAPI) -> None:
    """Make the app answer errors as problems."""
    for kind, answer in ERROR_ANSWERS.items():
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [{"pointer": _pointer(entry["loc"]), "detail": str(entry["msg"])} for entry in error.errors()]
    return problem_response(InvalidRequestError(errors), instance_of(request.scope))


def _pointer(location: Sequence[int | str]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)
