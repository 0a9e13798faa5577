"""`POST /infer`: a model, a size and numbers in, numbers out; exports first when that size was never made."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from service.ground.errors import UnknownArtifactError
from service.http.infer import InferenceDocument, counted, inference_response, input_arrays, read_document
from service.hub.routes.bodies import InferBody
from service.hub.routes.exports import accepted, exported
from service.hub.services import Hub

ATTEMPTS = 2


async def infer(request: Request) -> Response:
    """Run a model of a given size on inputs.

    Without a target the full network runs. Inputs are nested lists of finite numbers, samples first. The answer has
    nested lists too; a number that is not finite is null. When that size has to be built first and the build takes
    longer than the waiting time, the answer is 202 and a job: send the request again when it is done.
    """
    hub: Hub = request.app.state.hub
    with counted() as counting:
        document = await read_document(
            request,
            limit_bytes=hub.settings.max_body_bytes,
            inflated_limit_bytes=hub.settings.max_inflated_bytes,
        )
        body = InferBody.parse(document.members)
        counting.model = hub.registry.get(body.model).name
        response = await _infer(hub, request, document, body)
        counting.status = response.status_code
        return response


async def _infer(hub: Hub, request: Request, document: InferenceDocument, body: InferBody) -> Response:
    wanted = body.export_request(hub.registry.get(body.model).description)
    for attempt in range(ATTEMPTS):
        manifest = hub.exports.lookup(wanted)
        if manifest is None:
            made = await exported(hub, wanted, body, request)
            if made.job is not None and not made.is_finished:
                return accepted(made.job)
            manifest = made.result()
        digest = manifest["digest"]
        try:
            async with hub.sessions.use(digest) as batcher:
                outputs = await batcher.infer(await input_arrays(document, batcher.session.inputs))
            return inference_response(model=body.model, params=manifest["params"], digest=digest, outputs=outputs)
        except UnknownArtifactError:  # evicted in the moment between the export and the session
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")
