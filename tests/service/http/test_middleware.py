"""Every request has an id, a log line and a count, and an unexpected error shows nothing."""

from __future__ import annotations

import asyncio
import logging
import uuid

import httpx
import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from service.ground.errors import UnknownModelError
from service.http.error_handlers import install_problem_handlers
from service.http.middleware import RequestMiddleware
from service.http.routing import Operation
from tests.service.counted import Counted


async def fine(request: Request) -> Response:
    """Fine."""
    return Response("fine")


async def broken(request: Request) -> Response:
    """Broken."""
    raise RuntimeError("a secret in /some/path")


async def missing(request: Request) -> Response:
    """Missing."""
    raise UnknownModelError("nobody")


async def gone(request: Request) -> Response:
    """Gone."""
    raise ClientDisconnect


async def teapot(request: Request) -> Response:
    """Teapot."""
    raise HTTPException(418)


async def invalid(request: Request) -> Response:
    """Invalid."""
    raise RequestValidationError([{"loc": ("query", "a/b"), "msg": "is wrong", "type": "x"}])


async def half(request: Request) -> Response:
    """Half an answer."""

    async def parts():
        yield b"half"
        raise RuntimeError("a secret")

    return StreamingResponse(parts())


def make_app() -> FastAPI:
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    for endpoint in (fine, broken, missing, gone, teapot, invalid, half):
        operation = Operation("GET", f"/{endpoint.__name__}", endpoint, "x", "x", {200: ("x", {})})
        app.router.routes.append(operation.route())
    app.router.routes.append(Operation("PUT", "/fine", fine, "x", "x", {200: ("x", {})}).route())
    install_problem_handlers(app)
    app.add_middleware(RequestMiddleware)
    return app


def call(method: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    app = make_app()

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://hub") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(send())


def test_an_answer_has_an_id_and_is_counted_by_its_route() -> None:
    counted = Counted()
    response = call("GET", "/fine")
    uuid.UUID(response.headers["x-request-id"])
    assert response.headers["x-content-type-options"] == "nosniff"
    assert counted("inn_http_requests_total", route="/fine", code="200") == 1.0


def test_an_id_given_by_a_proxy_is_kept_when_it_is_a_uuid() -> None:
    given = str(uuid.uuid4())
    assert call("GET", "/fine", {"x-request-id": given}).headers["x-request-id"] == given
    assert call("GET", "/fine", {"x-request-id": "evil\tid"}).headers["x-request-id"] != "evil\tid"


def test_an_unexpected_error_shows_nothing_and_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    response = call("GET", "/broken")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    request_id = response.headers["x-request-id"]
    assert response.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "instance": f"urn:uuid:{request_id}",
    }
    (record,) = [record for record in caplog.records if record.getMessage() == "request failed"]
    assert record.exc_info is not None
    assert "a secret" in str(record.exc_info[1])
    assert vars(record)["request_id"] == request_id


def test_an_error_in_the_middle_of_an_answer_breaks_it_off() -> None:
    with pytest.raises(RuntimeError, match="a secret"):  # uvicorn closes the connection then
        call("GET", "/half")


def test_errors_of_ours_become_problems() -> None:
    response = call("GET", "/missing")
    assert response.status_code == 404
    assert response.json()["type"] == "/problems/unknown-model"
    assert response.json()["instance"] == f"urn:uuid:{response.headers['x-request-id']}"


def test_unknown_paths_are_denied_and_never_redirected() -> None:
    for path in ("/nothing", "/fine/", "//fine", "/fine/more"):
        counted = Counted()
        response = call("GET", path)
        assert (response.status_code, response.json()["type"]) == (404, "/problems/unknown-route")
        assert counted("inn_http_requests_total", route="unknown", code="404") == 1.0


def test_a_wrong_method_lists_all_that_are_right() -> None:
    response = call("POST", "/fine")
    assert response.status_code == 405
    assert response.json()["allowed"] == ["GET", "PUT"]
    assert response.headers["allow"] == "GET, PUT"


def test_errors_of_the_framework_become_problems() -> None:
    response = call("GET", "/teapot")
    assert response.status_code == 418
    assert response.json()["type"] == "about:blank"
    response = call("GET", "/invalid")
    assert response.status_code == 422
    assert response.json()["errors"] == [{"pointer": "/query/a~1b", "detail": "is wrong"}]


def test_the_access_log_has_a_line_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "service.access"):
        response = call("GET", "/fine?secret=1")
    (record,) = [record for record in caplog.records if record.name == "service.access"]
    fields = vars(record)
    assert (fields["method"], fields["path"], fields["status"], fields["bytes_sent"]) == ("GET", "/fine", 200, 4)
    assert fields["request_id"] == response.headers["x-request-id"]
    assert fields["seconds"] >= 0.0


def test_a_client_that_went_away_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    counted = Counted()
    app = make_app()
    sent: list[object] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/gone", "headers": [], "query_string": b"", "app": app}
    asyncio.run(app(scope, receive, send))
    assert sent == []
    assert counted("inn_http_requests_total", route="/gone", code="499") == 1.0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
