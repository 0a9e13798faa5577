"""`/fleet/nodes` and `/fleet/tokens` for administrators: who is there, what each should run, who may come in."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.ground.errors import InvalidRequestError
from service.ground.names import check_name
from service.http.problems import problem_body
from service.hub.fleet.documents import Desired
from service.hub.fleet.records import ADMIN, Node
from service.hub.routes.fleet_bodies import (
    LabelsBody,
    TokenBody,
    parse_number,
    read_model,
    selector_of,
    wait_of,
    whole_number,
)
from service.hub.services import Hub


async def list_nodes(request: Request) -> Response:
    """All nodes, by name, or those with some labels (`label=KEY=VALUE`, may be given several times).

    With `after` set to the `revision` of an earlier answer, the answer comes when anything has changed since, or when
    `wait` seconds are over.
    """
    hub: Hub = request.app.state.hub
    selector, after, seconds = selector_of(request), whole_number(request, "after"), wait_of(request)
    revision = await hub.fleet.changes(after=after, seconds=seconds)
    nodes = [node_body(hub, node) for node in hub.fleet.registry.select(selector)]
    return json_response({"revision": revision, "nodes": nodes})


async def get_node(request: Request) -> Response:
    """One node: what it should run, what it says, and what stands in the way."""
    hub: Hub = request.app.state.hub
    return _node(hub, hub.fleet.registry.get(node_name(request)))


async def delete_node(request: Request) -> Response:
    """Forget a node. Its key counts no more; it goes on serving what it has, but learns nothing new."""
    hub: Hub = request.app.state.hub
    await hub.fleet.remove(node_name(request))
    return Response(status_code=204)


async def patch_node(request: Request) -> Response:
    """Set labels of a node, or take them away."""
    hub: Hub = request.app.state.hub
    name = node_name(request)
    body = await read_model(request, LabelsBody)
    return _node(hub, await hub.fleet.registry.label(name, body.labels))


async def put_desired(request: Request) -> Response:
    """Say what a node should run: a model and a budget. Each time is a new generation, higher than all before.

    With `If-Match` the node must still be at that generation.
    """
    hub: Hub = request.app.state.hub
    name = node_name(request)
    desired = await read_model(request, Desired)
    await hub.fleet.registry.set_desired(name, desired, origin=ADMIN, if_generation=_if_match(request))
    return _node(hub, hub.fleet.registry.get(name))


async def post_rollback(request: Request) -> Response:
    """Give a node again what it had committed before what it has now: the very artifact, as a new generation."""
    hub: Hub = request.app.state.hub
    name = node_name(request)
    await hub.fleet.registry.roll_back(name)
    return _node(hub, hub.fleet.registry.get(name))


async def post_token(request: Request) -> Response:
    """Make an enrolment token: good for one node, for a limited time. It is shown only here."""
    hub: Hub = request.app.state.hub
    body = await read_model(request, TokenBody, is_optional=True)
    token, text = await hub.fleet.admission.create_token(node=body.node, seconds=body.expires_seconds)
    answer = {"token": text, "id": token.id, "node": token.node, "expires": token.expires}
    return json_response(answer, 201)


async def list_tokens(request: Request) -> Response:
    """All tokens without their secrets; used and expired ones are kept for a week."""
    hub: Hub = request.app.state.hub
    return json_response({"tokens": [token.view() for token in hub.fleet.admission.tokens()]})


async def delete_token(request: Request) -> Response:
    """Make a token worthless. A node that used it stays enrolled."""
    hub: Hub = request.app.state.hub
    await hub.fleet.admission.delete_token(request.path_params["token"])
    return Response(status_code=204)


def node_body(hub: Hub, node: Node) -> dict[str, Any]:
    """A node as JSON."""
    view = hub.fleet.view(node)
    problem = view["problem"]
    return {**view, "problem": None if problem is None else problem_body(problem.as_error())}


def node_name(request: Request) -> str:
    """The name in the path.

    Raises:
        InvalidRequestError: it is none.
    """
    return check_name(request.path_params["node"], "/node")


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer that is never stored."""
    return Response(
        orjson.dumps(body, default=str),
        status,
        {"cache-control": "no-store", **(headers or {})},
        media_type="application/json",
    )


def _node(hub: Hub, node: Node) -> Response:
    return json_response(node_body(hub, node), headers={"etag": f'"{node.generation}"'})


def _if_match(request: Request) -> int | None:
    value = request.headers.get("if-match")
    if value is None or value.strip() == "*":
        return None
    if "," in value:
        raise InvalidRequestError.at("/if-match", "one generation is compared; give one")
    return parse_number(value.strip().removeprefix('"').removesuffix('"'), "/if-match")
