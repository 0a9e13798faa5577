"""The HTTP of a node: `/infer` as on the hub, and how it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from service.ground.errors import ServiceError
from service.ground.metrics import CONTENT_TYPE, render
from service.http.error_answers import ERROR_ANSWERS, get_problem
from service.http.infer import counted, inference_response, input_arrays, read_document
from service.http.middleware import RequestMiddleware
from service.node.body import check_body
from service.node.node import Node, open_node
from service.node.settings import EdgeSettings

JSON = "application/json"


class NamedRoute(Route):
    """A route that tells its path template to the middleware, as those of the hub do."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether and how the route takes a request."""
        match, child = super().matches(scope)
        if match == Match.FULL:
            child["route"] = self
        return match, child


def create_app(settings: EdgeSettings, *, ended: Callable[[ServiceError], None] = lambda error: None) -> Starlette:
    """The app of a node; nothing is opened before its lifespan starts.

    Args:
        settings: of the node.
        ended: see `open_node`.

    Returns:
        The app; `app.state.node` holds the parts while it runs.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_node(settings, ended=ended) as node:
            app.state.node = node
            yield

    app = Starlette(
        routes=[
            NamedRoute("/infer", infer, methods=["POST"]),
            NamedRoute("/healthz", healthz),
            NamedRoute("/readyz", readyz),
            NamedRoute("/status", get_status),
            NamedRoute("/metrics", get_metrics),
            NamedRoute("/problems/{code}", get_problem),
        ],
        middleware=[Middleware(RequestMiddleware)],
        exception_handlers=ERROR_ANSWERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


async def infer(request: Request) -> Response:
    """Run the network of this node on inputs; the body and the answer are those of the hub's `/infer`."""
    node: Node = request.app.state.node
    with counted() as counting:
        document = await read_document(
            request,
            limit_bytes=node.settings.max_body_bytes,
            inflated_limit_bytes=node.settings.max_inflated_bytes,
        )
        network = node.serving.take()
        check_body(document.members, model=network.model)
        counting.model = network.model
        arrays = await input_arrays(document, network.batcher.session.inputs)
        network, outputs = await node.serving.infer(network, arrays)
        manifest = network.release.manifest
        response = inference_response(
            model=counting.model, params=manifest["params"], digest=manifest["digest"], outputs=outputs
        )
        counting.status = response.status_code
        return response


async def healthz(request: Request) -> Response:
    """The process answers requests."""
    return Response(b'{"status":"alive"}', media_type=JSON)


async def readyz(request: Request) -> Response:
    """There is a network, so that requests will be served."""
    request.app.state.node.serving.take()
    return Response(b'{"status":"ready"}', media_type=JSON)


async def get_status(request: Request) -> Response:
    """What the node reports to its hub, and whether it reaches it."""
    node: Node = request.app.state.node
    return Response(orjson.dumps(node.status.shown()), headers={"cache-control": "no-store"}, media_type=JSON)


async def get_metrics(request: Request) -> Response:
    """Counters and histograms in the text format of Prometheus."""
    return Response(render(), headers={"content-type": CONTENT_TYPE})
