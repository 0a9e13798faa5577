"""Server-sent events (the `text/event-stream` of the HTML standard) from an asynchronous sequence of JSON objects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.responses import StreamingResponse

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b": heartbeat\n\n"


def event_bytes(name: str, data: Mapping[str, Any]) -> bytes:
    """One event; JSON has no line breaks, so its data is one line."""
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


def event_stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """The answer that sends events as they come, past proxies that would otherwise collect them."""
    return StreamingResponse(
        events, media_type=MEDIA_TYPE, headers={"cache-control": "no-store", "x-accel-buffering": "no"}
    )


def wants_events(accept: str | None) -> bool:
    """Whether an `Accept` header asks for events."""
    return accept is not None and MEDIA_TYPE in accept.lower()
