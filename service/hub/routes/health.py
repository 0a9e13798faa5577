"""Whether the hub lives, whether it will serve, and what it counts."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.ground.metrics import CONTENT_TYPE, render
from service.hub.services import Hub

_ALIVE = orjson.dumps({"status": "alive"})
_READY = orjson.dumps({"status": "ready"})


async def healthz(request: Request) -> Response:
    """The process answers requests."""
    return Response(_ALIVE, media_type="application/json")


async def readyz(request: Request) -> Response:
    """The builder processes have started, so that any request will be served."""
    hub: Hub = request.app.state.hub
    hub.check_ready()
    return Response(_READY, media_type="application/json")


async def metrics(request: Request) -> Response:
    """Counters and histograms in the text format of Prometheus."""
    return Response(render(), headers={"content-type": CONTENT_TYPE})
