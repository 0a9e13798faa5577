"""Reading request bodies within limits: size as sent and as inflated, idle time, and JSON that means one thing.

Bodies are read raw, by the routes that want one, so that nothing is kept of a body nobody asked for.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from service.ground.errors import BodyTooLargeError, UnreadableBodyError
from service.http.errors import BodyTimeoutError, UnsupportedEncodingError

IDLE_SECONDS = 60.0
# wbits of zlib: gzip container, zlib container (what HTTP calls deflate)
ENCODINGS = {"gzip": 31, "deflate": 15}


async def body_chunks(
    request: Request, *, limit_bytes: int, idle_seconds: float = IDLE_SECONDS
) -> AsyncIterator[bytes]:
    """The body piece by piece, as it was sent.

    Args:
        request: whose body was not read yet.
        limit_bytes: most bytes of the body.
        idle_seconds: longest wait for the next piece.

    Raises:
        BodyTooLargeError: by its declared or by its real length; a declared one is refused before anything is read.
        BodyTimeoutError: nothing came for too long.
        ClientDisconnect: the client is gone.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit_bytes:
        raise BodyTooLargeError(limit_bytes)
    n_bytes = 0
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                message = await request.receive()
        except TimeoutError as error:
            raise BodyTimeoutError(idle_seconds) from error
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        n_bytes += len(chunk)
        if n_bytes > limit_bytes:
            raise BodyTooLargeError(limit_bytes)
        if chunk:
            yield chunk
        if not message.get("more_body", False):
            return


async def read_body(request: Request, *, limit_bytes: int, inflated_limit_bytes: int) -> bytes:
    """The whole body, its content encoding undone.

    Args:
        request: whose body was not read yet.
        limit_bytes: most bytes as sent.
        inflated_limit_bytes: most bytes after inflating.

    Raises:
        BodyTooLargeError, BodyTimeoutError, ClientDisconnect: see `body_chunks`.
        UnsupportedEncodingError: neither gzip nor deflate.
        UnreadableBodyError: the compressed data is damaged or cut short.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", *ENCODINGS):
        raise UnsupportedEncodingError(encoding)
    chunks = [chunk async for chunk in body_chunks(request, limit_bytes=limit_bytes)]
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if encoding == "identity":
        return body
    inflater = zlib.decompressobj(ENCODINGS[encoding])
    try:
        inflated = inflater.decompress(body, inflated_limit_bytes + 1)
    except zlib.error as error:
        raise UnreadableBodyError(f"the body is no {encoding} data ({error})") from error
    if len(inflated) > inflated_limit_bytes:
        raise BodyTooLargeError(inflated_limit_bytes, "the inflated body of the request")
    if not inflater.eof or inflater.unused_data:
        raise UnreadableBodyError(f"the {encoding} data of the body is cut short or followed by other bytes")
    return inflated


def parse_json_object(body: bytes) -> dict[str, Any]:
    """A JSON object, quickly; of members with the same name the last counts.

    NaN, infinities and numbers beyond the range of a double, which JSON does not have but many writers produce, come
    back as such, for the caller to name where they stand.

    Raises:
        UnreadableBodyError: no JSON, or no object.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not (b"NaN" in body or b"Infinity" in body or "infinity" in str(error)):
            raise UnreadableBodyError(f"the body is not JSON: {error}") from error
        document = _parse_slowly(body)
    return _object(document)


def parse_small_json_object(body: bytes) -> dict[str, Any]:
    """A JSON object, strictly: integers of any size are exact and a member given twice is an error.

    Raises:
        UnreadableBodyError: no JSON, no object, or the same member twice.
    """
    return _object(_parse_slowly(body, object_pairs_hook=_distinct))


def _parse_slowly(body: bytes, **options: Any) -> Any:
    try:
        return json.loads(body.decode(), **options)  # of bytes it would take UTF-16 and UTF-32, too
    except RecursionError as error:
        raise UnreadableBodyError("the body is not JSON: nested too deeply") from error
    except ValueError as error:  # also bytes that are no UTF-8, and integers of thousands of digits
        raise UnreadableBodyError(f"the body is not JSON: {str(error)[:200]}") from error


def _object(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise UnreadableBodyError("the body is JSON, but no object; send {…}")
    return document


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UnreadableBodyError(f"member '{twice[:100]}' is given twice")
    return members
