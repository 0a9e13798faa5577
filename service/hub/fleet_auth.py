"""One gate in front of every route of the fleet: what is not opened to others here is for administrators.

It looks at method and path before any route does, so that a route which nobody thought of is closed. The bodies of
requests that nodes sign are read here, since the signature covers them, and handed on to the route.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.ground.errors import ServiceError
from service.http.body import body_chunks
from service.http.middleware import instance_of
from service.http.problems import problem_response
from service.hub.fleet.errors import OtherNodeError
from service.hub.fleet.records import Node
from service.hub.services import Hub

PREFIX = "/fleet"
SIGNED_BODY_BYTES = 256 << 10

Access = Literal["node", "anyone"]


@dataclass(frozen=True)
class PublicRoute:
    """A way in for others than administrators.

    Attributes:
        method: of the request.
        path: pattern of the whole path; what is for one node has the group `node`.
        access: `node` for the node of the path, by its signature; `anyone` where the route itself decides.
    """

    method: str
    path: str
    access: Access


PUBLIC_ROUTES = (
    PublicRoute("GET", r"/fleet/keyring", "anyone"),
    PublicRoute("POST", r"/fleet/enroll", "anyone"),  # the body has a token
    PublicRoute("GET", r"/fleet/nodes/(?P<node>[^/]+)/desired", "node"),
    PublicRoute("PUT", r"/fleet/nodes/(?P<node>[^/]+)/reported", "node"),
)


class FleetAuth:
    """The gate, as middleware around the app.

    Args:
        app: what is surrounded; its `state.hub` knows keys and nodes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        path = _path(scope) if scope["type"] == "http" else ""
        if path != PREFIX and not path.startswith(f"{PREFIX}/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            receive = await _admit(request, path)
        except ClientDisconnect:
            raise
        except ServiceError as error:
            headers = {"www-authenticate": "Bearer"} if error.code == "invalid-admin-key" else None
            await problem_response(error, instance_of(scope), headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def signed_by(request: Request) -> Node:
    """The node that signed a request that the gate let through."""
    node: Node = request.scope["inn.node"]
    return node


async def _admit(request: Request, path: str) -> Receive:
    """Lets a request in or raises; returns where its body is to be read."""
    hub: Hub = request.app.state.hub
    for opening in PUBLIC_ROUTES:
        found = re.fullmatch(opening.path, path) if opening.method == request.method else None
        if found is None:
            continue
        if opening.access == "anyone":
            return request.receive
        body = b"".join([chunk async for chunk in body_chunks(request, limit_bytes=SIGNED_BODY_BYTES)])
        node = hub.fleet.admission.check_node(
            request.headers, method=request.method, target=_target(request.scope), body=body
        )
        if node.name != found["node"]:
            raise OtherNodeError(node.name)
        request.scope["inn.node"] = node
        return _replayed(body, request.receive)
    hub.fleet.admission.check_admin(request.headers.get("authorization"))
    return request.receive


def _replayed(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _path(scope: Scope) -> str:
    """The path as routes see it: without the prefix under which the app is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and (path == root or path[len(root)] == "/"):
        return path[len(root) :]
    return path


def _target(scope: Scope) -> str:
    """The raw path and query, as the client sent them."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return (raw + (b"?" + query if query else b"")).decode("latin-1")
