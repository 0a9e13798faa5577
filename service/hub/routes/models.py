"""`/models`: the registry of checkpoints, uploads, and the curve of size against quality."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.contract.export_request import default_quality
from service.contract.sizes import LARGEST_TARGET, QUALITIES
from service.ground.errors import BodyTooLargeError, DigestMismatchError, InvalidRequestError, UnreadableBodyError
from service.ground.files import HashingWriter
from service.ground.names import check_digest, check_name
from service.http.body import body_chunks
from service.http.errors import UnsupportedEncodingError
from service.hub.routes.bodies import wait_seconds
from service.hub.routes.exports import accepted
from service.hub.services import Hub
from service.store.models import Model

WRITE_BYTES = 1 << 20
CURVE_POINTS_MAX = 64
LISTED = ("feasible", "inputs", "outputs", "qualities")

_REPR_DIGEST = re.compile(r"sha-256\s*=\s*:([A-Za-z0-9+/=]{44}):", re.IGNORECASE)


async def list_models(request: Request) -> Response:
    """All models, by name, each in short."""
    hub: Hub = request.app.state.hub
    models = [model_body(model) for model in hub.registry.list()]
    short = ("name", "checkpoint", "size_bytes", "added", *LISTED)
    return _json({"models": [{name: body[name] for name in short if name in body} for body in models]})


async def get_model(request: Request) -> Response:
    """One model: sizes it can be made in, groups, what is frozen and why, inputs, outputs, qualities."""
    hub: Hub = request.app.state.hub
    return _json(model_body(hub.registry.get(check_name(request.path_params["model"]))))


async def put_model(request: Request) -> Response:
    """Register a checkpoint (the bytes of a `.inn` file) under a name.

    The bytes are hashed while they arrive and compared with `?digest=` or `Repr-Digest` when given; a builder process
    reads the checkpoint before it is registered. The same checkpoint again changes nothing (200); another one under the
    same name is refused (409) unless `?replace=true`.
    """
    hub: Hub = request.app.state.hub
    name = check_name(request.path_params["model"])
    replace = _flag(request, "replace")
    expected = _expected_digest(request)
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        raise UnsupportedEncodingError(encoding)
    limit = hub.settings.max_checkpoint_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        if int(declared[:20]) > limit:
            raise BodyTooLargeError(limit, "the checkpoint")
        await asyncio.to_thread(hub.store.make_disk_room, int(declared))
    with hub.store.staging() as folder:
        staged = folder / "checkpoint.inn"
        digest = await _receive(request, staged, limit)
        if expected is not None and digest != expected:
            raise DigestMismatchError("the checkpoint", expected=expected, found=digest)
        model, outcome = await hub.models.add(name, staged, digest=digest, replace=replace)
    return _json(
        {**model_body(model), "outcome": outcome}, 201 if outcome == "created" else 200, {"location": f"/models/{name}"}
    )


async def delete_model(request: Request) -> Response:
    """Forget a model. Its artifacts can still be fetched until they are evicted."""
    hub: Hub = request.app.state.hub
    await asyncio.to_thread(hub.registry.remove, check_name(request.path_params["model"]))
    return Response(status_code=204)


async def get_curve(request: Request) -> Response:
    """Parameters, MACs and bytes against agreement with the full network, at several sizes.

    Measured once for a checkpoint, then remembered. When measuring takes longer than the waiting time, the answer is
    202 and a job.
    """
    hub: Hub = request.app.state.hub
    name = check_name(request.path_params["model"])
    params = _params(request)
    quality = request.query_params.get("quality") or default_quality(hub.registry.get(name).description)
    if quality not in QUALITIES:
        raise InvalidRequestError.at("/quality", f"'{quality[:60]}' is no quality; use one of {', '.join(QUALITIES)}")
    curve = hub.curves.lookup(name, params=params, quality=quality)
    if curve is None:
        job = await hub.curves.submit(name, params=params, quality=quality)
        if not await job.wait(wait_seconds(None, request.headers.get("prefer"), hub.settings.wait_seconds)):
            return accepted(job)
        curve = job.result()
    return _json(curve)


def model_body(model: Model) -> dict[str, Any]:
    """A model as JSON: what the builder said of the checkpoint, under the name it is registered with."""
    return {
        **model.description,
        "name": model.name,
        "checkpoint": model.digest,
        "size_bytes": model.size_bytes,
        "added": model.added,
    }


async def _receive(request: Request, staged: Any, limit_bytes: int) -> str:
    """Write the body to a file; returns its digest."""
    with HashingWriter(staged, limit_bytes=limit_bytes, what="the checkpoint") as writer:
        pending = bytearray()
        async for chunk in body_chunks(request, limit_bytes=limit_bytes):
            pending += chunk
            if len(pending) >= WRITE_BYTES:
                await asyncio.to_thread(writer.write, pending)
                pending = bytearray()
        await asyncio.to_thread(writer.write, pending)
    if writer.size_bytes == 0:
        raise UnreadableBodyError("the body is empty; send the bytes of a .inn file")
    return writer.digest


def _expected_digest(request: Request) -> str | None:
    given = request.query_params.get("digest")
    if given is not None:
        return check_digest(given)
    header = request.headers.get("repr-digest") or request.headers.get("content-digest")
    if header is None:
        return None
    found = _REPR_DIGEST.search(header)
    if found is None:
        return None  # only other algorithms, which RFC 9530 lets a server ignore
    try:
        return "sha256:" + base64.b64decode(found.group(1), validate=True).hex()
    except binascii.Error as error:
        raise InvalidRequestError.at("/digest", "Repr-Digest is not base64") from error


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false")
    if value not in ("true", "false"):
        raise InvalidRequestError.at(f"/{name}", f"'{value[:60]}' is neither true nor false")
    return value == "true"


def _params(request: Request) -> list[int] | None:
    text = request.query_params.get("params")
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) > CURVE_POINTS_MAX:
        raise InvalidRequestError.at("/params", f"{len(parts)} sizes; at most {CURVE_POINTS_MAX} at a time")
    if not all(
        part.isascii() and part.isdecimal() and len(part) < 20 and 1 <= int(part) <= LARGEST_TARGET for part in parts
    ):
        raise InvalidRequestError.at("/params", f"'{text[:60]}' is no list of parameter counts, such as 100000,200000")
    return sorted({int(part) for part in parts})


def _json(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(body), status, {"cache-control": "no-store", **(headers or {})}, media_type="application/json"
    )
