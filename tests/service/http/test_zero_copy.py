"""Files that go to the socket uncopied: every byte once, whatever the client does, and blocks where it cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.http import files, zero_copy
from service.http.files import ArtifactResponse
from service.http.zero_copy import EXTENSION, with_zero_copy
from tests.service.http.test_files import LeaseOf
from tests.service.node.fake_hub import running

CONTENT = np.random.default_rng(0).bytes(16 * files.BLOCK_BYTES + 17)  # more than the buffers of two sockets hold
PATIENCE_SECONDS = 20.0
SERVERS = [("uvloop", "httptools"), ("asyncio", "httptools"), ("asyncio", "h11")]


class Served:
    """A server of one file, and what was noticed of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.leases: list[LeaseOf] = []
        self.offered: list[bool] = []
        self.copied_by_kernel = 0
        self.size_bytes = path.stat().st_size
        self.address = ""
        self.failures: list[BaseException] = []
        self.clients: list[http.client.HTTPConnection] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers every request with the file."""
        self.offered.append(EXTENSION in (scope.get("extensions") or {}))
        lease = LeaseOf(self.path)
        lease.size_bytes = self.size_bytes
        self.leases.append(lease)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        try:
            await ArtifactResponse(lease, headers, head_only=scope["method"] == "HEAD")(scope, receive, send)
        except BaseException as error:
            self.failures.append(error)
            raise

    def connect(self) -> http.client.HTTPConnection:
        """A client."""
        self.clients.append(http.client.HTTPConnection(self.address, timeout=PATIENCE_SECONDS))
        return self.clients[-1]


@pytest.fixture(params=SERVERS, ids=["-".join(names) for names in SERVERS])
def served(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The file behind each kind of server that uvicorn has."""
    loop, protocol = request.param
    path = tmp_path / "artifact"
    path.write_bytes(CONTENT)
    with serving(Served(path), monkeypatch, loop=loop, http=protocol) as found:
        yield found


@contextmanager
def serving(found: Served, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[Served]:
    sendfile = os.sendfile

    def counted(*arguments: Any) -> int:
        n_bytes = sendfile(*arguments)
        found.copied_by_kernel += n_bytes
        return n_bytes

    monkeypatch.setattr(zero_copy.os, "sendfile", counted)
    with running(with_zero_copy(found.app), lifespan="off", **options) as url:
        found.address = url.removeprefix("http://")
        yield found
        for client in found.clients:
            client.close()


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_requests_on_one_connection_get_every_byte_once(served: Served, request: pytest.FixtureRequest) -> None:
    client = served.connect()
    for asked, expected in [({}, CONTENT), ({"Range": "bytes=5-700000"}, CONTENT[5:700001]), ({}, CONTENT)]:
        client.request("GET", "/", headers=asked)
        answer = client.getresponse()
        assert answer.read() == expected
        assert int(answer.headers["content-length"]) == len(expected)
    client.request("HEAD", "/")
    assert client.getresponse().read() == b""
    eventually(lambda: [lease.is_released for lease in served.leases] == [True] * 4)
    is_possible = "h11" not in request.node.callspec.id
    assert served.offered == [is_possible] * 4  # a new uvicorn that looks otherwise would show here
    total = 2 * len(CONTENT) + 700001 - 5
    assert served.copied_by_kernel >= 0.9 * total if is_possible else served.copied_by_kernel == 0


def test_a_client_that_reads_slowly_gets_everything(served: Served) -> None:
    client = served.connect()
    client.connect()
    assert client.sock is not None
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    client.request("GET", "/")
    answer = client.getresponse()
    slow = b"".join(answer.read(1 << 14) for _ in range(30) if time.sleep(0.01) is None)
    assert slow + answer.read() == CONTENT
    assert served.copied_by_kernel >= 0.9 * len(CONTENT) if served.offered[0] else served.copied_by_kernel == 0


def test_clients_that_hang_up_or_wait_do_not_keep_others_from_their_bytes(served: Served) -> None:
    waiting = served.connect()
    waiting.request("GET", "/")
    eventually(lambda: len(served.leases) == 1)  # it reads nothing: its sockets are full
    gone = served.connect()
    gone.request("GET", "/")
    assert gone.getresponse().read(1000) == CONTENT[:1000]
    gone.close()
    eventually(lambda: served.leases[1].is_released)
    assert served.failures == []  # a client that goes is no failure
    other = served.connect()
    other.request("GET", "/")
    assert other.getresponse().read() == CONTENT
    assert not served.leases[0].is_released
    assert waiting.getresponse().read() == CONTENT


def test_many_at_once_get_their_own_bytes(served: Served) -> None:
    found: list[bool] = []

    def fetch(start: int) -> None:
        client = served.connect()
        client.request("GET", "/", headers={"Range": f"bytes={start}-"})
        found.append(client.getresponse().read() == CONTENT[start:])

    threads = [threading.Thread(target=fetch, args=(start,)) for start in range(0, 8000, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


def test_a_file_that_ends_too_soon_breaks_off(served: Served) -> None:
    served.size_bytes += 1
    client = served.connect()
    client.request("GET", "/")
    with pytest.raises(http.client.IncompleteRead):
        client.getresponse().read()
    eventually(lambda: served.leases[0].is_released)


def test_what_is_not_in_the_page_cache_is_read_in_a_thread(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "read_cached", lambda *arguments: None)
    client = served.connect()
    client.request("GET", "/")
    assert client.getresponse().read() == CONTENT
    assert served.copied_by_kernel == 0


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_bytes_of_the_app_and_of_the_file_stay_in_order(loop: str, tmp_path: Path) -> None:
    """What the app has sent may still wait in the transport when the file is sent."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    block, n_turns = CONTENT[::-1][: 1 << 20], 6
    size = len(CONTENT) // n_turns

    async def app(scope: Any, receive: Any, send: Any) -> None:
        length = n_turns * (len(block) + size)
        headers = [(b"content-length", str(length).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with path.open("rb") as file:
            for turn in range(n_turns):
                await send({"type": "http.response.body", "body": block, "more_body": True})
                part = {"file": file.fileno(), "offset": turn * size, "count": size}
                await send({"type": EXTENSION, **part, "more_body": turn < n_turns - 1})

    with running(with_zero_copy(app), lifespan="off", loop=loop) as url:
        client = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_SECONDS)
        with contextlib.closing(client):
            client.request("GET", "/")
            time.sleep(0.2)  # until all buffers are full
            found = client.getresponse().read()
    assert found == b"".join(block + CONTENT[turn * size : (turn + 1) * size] for turn in range(n_turns))


def test_it_is_not_offered_where_send_is_not_that_of_a_plain_connection() -> None:
    offered: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        offered.append(EXTENSION in (scope.get("extensions") or {}))

    class Tls:
        """A transport that knows its TLS context."""

        def get_extra_info(self, name: str) -> object:
            """Whatever is asked for."""
            return name

    class Exchange:
        """As of uvicorn."""

        transport, flow, disconnected, chunked_encoding, expected_content_length = Tls(), None, False, False, 0

        async def send(self, message: Any) -> None:
            """Not called."""

    async def plain(message: Any) -> None:
        """Of no server that is known."""

    async def run() -> None:
        for send in (plain, Exchange().send):
            await with_zero_copy(app)({"type": "http"}, plain, send)

    asyncio.run(run())
    assert offered == [False, False]


def test_a_file_needs_a_length_that_has_room_for_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    failures: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        length = [(b"content-length", b"50")] if scope["path"] == "/short" else []
        await send({"type": "http.response.start", "status": 200, "headers": length})
        try:
            await send({"type": EXTENSION, "file": descriptor, "offset": 0, "count": 100})
        except RuntimeError as error:
            failures.append(str(error))
            raise
        finally:
            os.close(descriptor)

    with running(with_zero_copy(app), lifespan="off") as url:
        for target in ("/short", "/none"):
            client = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_SECONDS)
            with contextlib.closing(client):
                client.request("GET", target)
                with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                    client.getresponse().read()
    assert len(failures) == 2
