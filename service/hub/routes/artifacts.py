"""`/artifacts/{digest}`: the bytes of an artifact, and its manifest."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.ground.errors import UnknownArtifactError
from service.ground.names import check_digest
from service.http.files import ArtifactResponse
from service.hub.services import Hub


async def get_artifact(request: Request) -> Response:
    """The ONNX file.

    Its ETag is its digest; `If-None-Match` gives 304, `Range` with an optional `If-Range` one part of it. `Repr-Digest`
    lets a client check what it got. The artifact cannot be evicted while it is being sent.
    """
    return _artifact(request, head_only=False)


async def head_artifact(request: Request) -> Response:
    """As GET, without the bytes."""
    return _artifact(request, head_only=True)


async def get_manifest(request: Request) -> Response:
    """The manifest of an artifact, as the build that made it wrote it."""
    hub: Hub = request.app.state.hub
    digest = check_digest(request.path_params["digest"])
    manifest = hub.catalogue.manifest_of(digest) if digest in hub.store else None
    if manifest is None:
        raise UnknownArtifactError(digest)
    return Response(orjson.dumps(manifest), media_type="application/json")


def _artifact(request: Request, *, head_only: bool) -> Response:
    hub: Hub = request.app.state.hub
    return ArtifactResponse(
        hub.store.lease(request.path_params["digest"]),
        request.headers,
        head_only=head_only,
    )
