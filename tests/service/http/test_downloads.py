"""Files on real sockets: every byte once, whatever the client does and whichever loop and parser serves it."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.http import files
from service.http.files import ArtifactResponse
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
        self.size_bytes = path.stat().st_size
        self.address = ""
        self.failures: list[BaseException] = []
        self.clients: list[http.client.HTTPConnection] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers every request with the file."""
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
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """The file behind each kind of server that uvicorn has."""
    loop, protocol = request.param
    path = tmp_path / "artifact"
    path.write_bytes(CONTENT)
    found = Served(path)
    with running(found, lifespan="off", loop=loop, http=protocol) as url:
        found.address = url.removeprefix("http://")
        yield found
        for client in found.clients:
            client.close()


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_requests_on_one_connection_get_every_byte_once(served: Served) -> None:
    client = served.connect()
    for asked, expected in [({}, CONTENT), ({"Range": "bytes=5-700000"}, CONTENT[5:700001]), ({}, CONTENT)]:
        client.request("GET", "/", headers=asked)
        answer = client.getresponse()
        assert answer.read() == expected
        assert int(answer.headers["content-length"]) == len(expected)
    client.request("HEAD", "/")
    assert client.getresponse().read() == b""
    eventually(lambda: [lease.is_released for lease in served.leases] == [True] * 4)


def test_a_client_that_reads_slowly_gets_everything(served: Served) -> None:
    client = served.connect()
    client.connect()
    assert client.sock is not None
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    client.request("GET", "/")
    answer = client.getresponse()
    slow = b"".join(answer.read(1 << 14) for _ in range(30) if time.sleep(0.01) is None)
    assert slow + answer.read() == CONTENT


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
