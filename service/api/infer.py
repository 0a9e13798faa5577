"""`POST /infer`: a model, a size and numbers in, numbers out; exports first when that size was never made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.api.bodies import InferBody
from service.api.exports import accepted, exported
from service.api.hub import Hub
from service.errors import ServiceError, UnknownArtifactError
from service.runtime.tensors import Array, arrays_from_json, holds_only_numbers
from service.web.body import parse_json_object, read_body
from service.web.problems import status_of

# Larger bodies are read in a thread, so that other requests get their turn in between.
THREAD_BYTES = 1 << 20
ATTEMPTS = 2


async def infer(request: Request) -> Response:
    """Run a model of a given size on inputs.

    Without a target the full network runs. Inputs are nested lists of finite numbers, samples first. The answer has
    nested lists too; a number that is not finite is null. When that size has to be built first and the build takes
    longer than the waiting time, the answer is 202 and a job: send the request again when it is done.
    """
    hub: Hub = request.app.state.hub
    started = time.perf_counter()
    status = 500
    model = "unknown"
    try:
        raw = await read_body(
            request,
            limit_bytes=hub.settings.max_body_bytes,
            inflated_limit_bytes=hub.settings.max_inflated_bytes,
        )
        document = (
            parse_json_object(raw) if len(raw) < THREAD_BYTES else await asyncio.to_thread(parse_json_object, raw)
        )
        body = InferBody.parse(document)
        model = hub.registry.get(body.model).name
        response = await _infer(hub, request, raw, document, body)
        status = response.status_code
        return response
    except ServiceError as error:
        status = status_of(error)
        raise
    finally:
        hub.metrics.infer_answered(model, status, time.perf_counter() - started)


async def _infer(hub: Hub, request: Request, raw: bytes, document: dict[str, Any], body: InferBody) -> Response:
    wanted = body.export_request(hub.registry.get(body.model).description)
    only_numbers = holds_only_numbers(raw, document)
    for attempt in range(ATTEMPTS):
        manifest = hub.exports.lookup(wanted)
        if manifest is None:
            job = await exported(hub, wanted, body, request)
            if not job.is_finished:
                return accepted(job)
            manifest = job.result()
        try:
            async with hub.sessions.use(manifest["digest"]) as batcher:
                specs = batcher.session.inputs
                if len(raw) < THREAD_BYTES:
                    arrays = arrays_from_json(specs, body.inputs, only_numbers=only_numbers)
                else:
                    arrays = await asyncio.to_thread(arrays_from_json, specs, body.inputs, only_numbers=only_numbers)
                return _answer(body.model, manifest, await batcher.infer(arrays))
        except UnknownArtifactError:  # evicted in the moment between the export and the session
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _answer(model: str, manifest: dict[str, Any], outputs: Mapping[str, Array]) -> Response:
    answer = {
        "model": model,
        "params": manifest["params"],
        "digest": manifest["digest"],
        "outputs": {name: np.ascontiguousarray(values) for name, values in outputs.items()},
    }
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
