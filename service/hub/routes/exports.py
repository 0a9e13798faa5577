"""`POST /export`: a target in, a manifest or the artifact itself out; past the waiting time, a job to look at."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.builds.exports import Export
from service.builds.job import Job
from service.contract.export_request import ExportRequest
from service.http.body import parse_small_json_object, read_body
from service.http.files import MEDIA_TYPE, ArtifactResponse
from service.hub.routes.bodies import ExportBody, SizeRequest, wait_seconds
from service.hub.routes.jobs import job_body, job_path
from service.hub.services import Hub

# A request for an export is a few short members; all else is a mistake or an attack.
BODY_BYTES = 64 << 10
JSON = "application/json"


async def export(request: Request) -> Response:
    """Make the network that fits a target, or find it made.

    Exactly one target is given. Equal requests share one build, and equal plans one artifact. A target above the
    largest size gives the full network (`full_size` in the manifest). With `Accept: application/octet-stream` the
    answer is the ONNX file itself, and `Link` leads to its manifest. When the build takes longer than the waiting
    time, the answer is 202 and a job.
    """
    hub: Hub = request.app.state.hub
    raw = await read_body(request, limit_bytes=BODY_BYTES, inflated_limit_bytes=BODY_BYTES)
    body = ExportBody.parse(parse_small_json_object(raw))
    wanted = body.export_request(hub.registry.get(body.model).description)
    manifest = hub.exports.lookup(wanted)
    cached = manifest is not None
    if manifest is None:
        made = await exported(hub, wanted, body, request)
        if made.job is not None and not made.is_finished:
            return accepted(made.job)
        manifest, cached = made.result(), made.job is None
    if MEDIA_TYPE in request.headers.get("accept", ""):
        return _artifact(hub, manifest, cached=cached)
    digest = manifest["digest"]
    return Response(
        orjson.dumps({**manifest, "url": artifact_path(digest), "cached": cached}),
        headers={"content-location": artifact_path(digest) + "/manifest", "cache-control": "no-store"},
        media_type=JSON,
    )


async def exported(hub: Hub, wanted: ExportRequest, body: SizeRequest, request: Request) -> Export:
    """An export, waited for as long as the client wants."""
    export = await hub.exports.submit(wanted)
    await export.wait(wait_seconds(body, request.headers.get("prefer"), hub.settings.wait_seconds))
    return export


def accepted(job: Job) -> Response:
    """The answer while a job goes on: 202, where to look, and when."""
    return Response(
        orjson.dumps(job_body(job.status)),
        202,
        {"location": job_path(job.id), "retry-after": "1", "cache-control": "no-store"},
        media_type=JSON,
    )


def artifact_path(digest: str) -> str:
    """Where an artifact is served."""
    return f"/artifacts/{digest}"


def _artifact(hub: Hub, manifest: dict[str, Any], *, cached: bool) -> Response:
    digest = manifest["digest"]
    return ArtifactResponse(
        hub.store.lease(digest),
        {},  # conditions and ranges are for GET
        headers={
            "cache-control": "no-store",
            "content-location": artifact_path(digest),
            "content-disposition": f'attachment; filename="{manifest["model"]}-{manifest["params"]}.onnx"',
            "link": f'<{artifact_path(digest)}/manifest>; rel="describedby"; type="{JSON}"',
            "inn-digest": digest,
            "inn-params": str(manifest["params"]),
            "inn-cached": "true" if cached else "false",
        },
    )
