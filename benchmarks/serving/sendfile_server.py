"""The least that sending a file can cost: `sendfile` on asyncio sockets. The limit for what the hub's downloads cost.

`python -m benchmarks.serving.sendfile_server FILE` listens on a free loopback port, prints its address, and answers
whatever it is asked with the file, opened anew each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path


async def serve(path: Path) -> None:
    """Serve until cancelled."""
    loop = asyncio.get_running_loop()
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setblocking(False)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    tasks = set()
    while True:
        connection, _ = await loop.sock_accept(listening)
        task = asyncio.create_task(_answer_all(connection, path))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _answer_all(connection: socket.socket, path: Path) -> None:
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, contextlib.suppress(ConnectionError):
        request = b""
        while True:
            block = await loop.sock_recv(connection, 1 << 16)
            if not block:
                return
            request += block
            while b"\r\n\r\n" in request:  # requests without bodies
                request = request.partition(b"\r\n\r\n")[2]
                with path.open("rb") as file:
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {os.fstat(file.fileno()).st_size}\r\n\r\n"
                    await loop.sock_sendall(connection, head.encode())
                    await loop.sock_sendfile(connection, file)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Path(sys.argv[1])))
