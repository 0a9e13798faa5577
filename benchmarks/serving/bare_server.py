"""The least that an HTTP server can do: read the body, send bytes back. The limit that the hub is measured against.

`python -m benchmarks.serving.bare_server` listens on a free loopback port with the hub's own server settings and prints
its address. `GET` and `POST` answer with as many bytes as the query string says: `/?1234`.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Read the whole body and answer with a body of the length that the query string names."""
    more = True
    while more:
        more = bool((await receive()).get("more_body", False))
    body = b" " * int(scope["query_string"] or b"0")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until stopped."""
    # Without the protocol named, asyncio leaves Nagle's algorithm on: 40 ms a request.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")).run([listening])


if __name__ == "__main__":
    main()
