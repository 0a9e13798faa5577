"""What nodes ask of the hub: to be let in, which keys count, what they should run; and what they say of themselves."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from service.http.problems import problem_body
from service.hub.fleet.documents import Reported
from service.hub.fleet_auth import signed_by
from service.hub.routes.fleet_bodies import REPORT_BYTES, EnrollBody, read_model, wait_of, whole_number
from service.hub.routes.fleet_nodes import json_response
from service.hub.services import Hub


async def post_enroll(request: Request) -> Response:
    """Enroll a node with a token: from then on its key signs its requests.

    The same node with the same key may ask again when it never saw the answer. The node checks that `root` is the key
    in its token, and pins it.
    """
    hub: Hub = request.app.state.hub
    body = await read_model(request, EnrollBody)
    node, is_new = await hub.fleet.admission.enroll(
        body.node,
        body.token,
        body.public_key,
        labels=body.labels,
        capability=body.capability.model_dump(exclude_none=True),
    )
    root = hub.fleet.vault.root
    answer = {
        "node": node.name,
        "root": {"key_id": root.key_id, "public": root.text},
        "keyring": hub.fleet.vault.keyring_document(),
    }
    return json_response(answer, 201 if is_new else 200)


async def get_keyring(request: Request) -> Response:
    """The keys that sign releases, signed by the root key."""
    hub: Hub = request.app.state.hub
    return json_response(hub.fleet.vault.keyring_document())


async def get_desired(request: Request) -> Response:
    """What a node should run, as soon as it is ready and newer than `after`; 204 when `wait` seconds are over.

    There is a signed `release`, or a signed `probe` of sizes to measure, or the `problem` that stands in the way. The
    request is signed by the node.
    """
    hub: Hub = request.app.state.hub
    after, seconds = whole_number(request, "after") or 0, wait_of(request)
    told = await hub.fleet.desired_for(signed_by(request), after=after, seconds=seconds)
    if told is None:
        return Response(status_code=204)
    problem = told["problem"]
    return json_response({**told, "problem": None if problem is None else problem_body(problem.as_error())})


async def put_reported(request: Request) -> Response:
    """Say how a node is: state, active and previous artifact, error, measurements. The request is signed by it."""
    hub: Hub = request.app.state.hub
    reported = await read_model(request, Reported, limit_bytes=REPORT_BYTES)
    await hub.fleet.report(signed_by(request), reported)
    return Response(status_code=204)
