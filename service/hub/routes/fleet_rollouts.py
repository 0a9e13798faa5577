"""`/fleet/rollouts`: a change for all nodes with some labels, canaries first."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from service.hub.routes.fleet_bodies import RolloutBody, read_model
from service.hub.routes.fleet_nodes import json_response
from service.hub.services import Hub


async def post_rollout(request: Request) -> Response:
    """Begin a rollout for the nodes that have the labels of `selector` now.

    A share of the nodes goes first. When all of these have committed, and `bake_seconds` are over, the rest follows.
    When `max_failures` nodes have failed, rolled back or gone stale, it is aborted, and those that were changed get
    back what they had.
    """
    hub: Hub = request.app.state.hub
    body = await read_model(request, RolloutBody)
    rollout = await hub.fleet.rollouts.create(
        body.change,
        selector=body.selector,
        name=body.name,
        canary_share=body.canary_share,
        max_failures=body.max_failures,
        bake_seconds=body.bake_seconds,
    )
    return json_response(rollout.view(), 201, {"location": f"/fleet/rollouts/{rollout.id}"})


async def list_rollouts(request: Request) -> Response:
    """All rollouts, oldest first; the oldest ended ones are forgotten in time."""
    hub: Hub = request.app.state.hub
    return json_response({"rollouts": [rollout.view() for rollout in hub.fleet.rollouts.list()]})


async def get_rollout(request: Request) -> Response:
    """One rollout, with what became of each node."""
    hub: Hub = request.app.state.hub
    return json_response(hub.fleet.rollouts.get(request.path_params["rollout"]).view())


async def post_pause(request: Request) -> Response:
    """Hold a rollout: no further node is changed until it is resumed or aborted."""
    hub: Hub = request.app.state.hub
    return json_response((await hub.fleet.rollouts.pause(request.path_params["rollout"])).view())


async def post_resume(request: Request) -> Response:
    """Let a rollout that was held go on."""
    hub: Hub = request.app.state.hub
    return json_response((await hub.fleet.rollouts.resume(request.path_params["rollout"])).view())


async def post_abort(request: Request) -> Response:
    """End a rollout: nodes that were changed get back what they had, all others stay as they are."""
    hub: Hub = request.app.state.hub
    return json_response((await hub.fleet.rollouts.abort(request.path_params["rollout"])).view())
