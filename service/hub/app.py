"""The ASGI app of the hub: `create_app(settings)` puts routes, problems, metrics and the hub's lifespan together."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from service.ground.settings import ApiSettings
from service.ground.version import version
from service.http.docs import docs_page, docs_response
from service.http.error_handlers import install_problem_handlers
from service.http.middleware import RequestMiddleware
from service.http.problems import MEDIA_TYPE, problem_schema
from service.hub.fleet_auth import FleetAuth
from service.hub.routes.fleet_routes import FLEET_SCHEMAS
from service.hub.routes.schemas import SCHEMAS
from service.hub.routes.table import OPERATIONS
from service.hub.services import open_hub

TITLE = "inn-service"
DESCRIPTION = "One continuous checkpoint per network, any size of it as ONNX on request."


def create_app(
    settings: ApiSettings, *, imports: Sequence[Path] = (), builder_command: Sequence[str] | None = None
) -> FastAPI:
    """The app; nothing is opened before its lifespan starts.

    Args:
        settings: of the hub.
        imports: checkpoints to register at the start; see `open_hub`.
        builder_command: starts a builder process; that of the settings when not given.

    Returns:
        An app whose paths are those of the contract and nothing else; `app.state.hub` holds the parts while it runs.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_hub(settings, imports=imports, command=builder_command) as hub:
            app.state.hub = hub
            yield

    app = FastAPI(
        title=TITLE,
        version=version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,  # ours says that errors are problems, and its page needs no scripts of other servers
    )
    app.router.routes[:0] = [operation.route() for operation in OPERATIONS]
    document = _document(app)
    app.add_route("/openapi.json", lambda request: _json(document), include_in_schema=False)
    page = functools.cache(lambda: docs_page(document))
    app.add_route("/docs", lambda request: docs_response(page()), include_in_schema=False)
    install_problem_handlers(app)
    app.add_middleware(FleetAuth)  # the one added last is outermost: problems of the gate are counted and logged, too
    app.add_middleware(RequestMiddleware)
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with problems as the answer to whatever goes wrong."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.router.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= {**SCHEMAS, **FLEET_SCHEMAS, "Problem": problem_schema()}
    default = {
        "description": "A problem",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].setdefault("default", default)
    return document


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
