"""`/artifacts/{digest}` over HTTP: conditions, ranges, digests, leases."""

from __future__ import annotations

import base64
import hashlib
import socket
import time

import pytest

from service.store.interface import Lease
from tests.service.hub.fake_builder import PARAMS_EACH, toy_network
from tests.service.hub.live_hub import LiveHub

CONTENT = toy_network(30)
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
PATH = f"/artifacts/{DIGEST}"
UNKNOWN = "/artifacts/sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def _exported(toy: LiveHub) -> None:
    assert toy.export(30 * PARAMS_EACH).json()["digest"] == DIGEST


def test_get_and_head_describe_the_same_bytes(toy: LiveHub) -> None:
    got, head = toy.client.get(PATH), toy.client.head(PATH)
    assert got.content == CONTENT
    assert head.content == b""
    names = ("etag", "content-length", "repr-digest", "cache-control", "accept-ranges", "content-type")
    assert {name: got.headers[name] for name in names} == {name: head.headers[name] for name in names}
    assert got.headers["etag"] == f'"{DIGEST}"'
    assert int(got.headers["content-length"]) == len(CONTENT)
    encoded = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    assert got.headers["repr-digest"] == f"sha-256=:{encoded}:"
    assert "immutable" in got.headers["cache-control"]


def test_what_the_client_has_is_not_sent_again(toy: LiveHub) -> None:
    for method in ("GET", "HEAD"):
        response = toy.client.request(method, PATH, headers={"if-none-match": f'"{DIGEST}"', "range": "bytes=0-1"})
        assert response.status_code == 304
        assert response.content == b""
        assert response.headers["etag"] == f'"{DIGEST}"'
        assert "content-length" not in response.headers
    assert toy.client.get(PATH, headers={"if-none-match": '"other"'}).status_code == 200


def test_a_download_that_broke_off_is_resumed(toy: LiveHub) -> None:
    cut = 100
    response = toy.client.get(PATH, headers={"range": f"bytes={cut}-", "if-range": f'"{DIGEST}"'})
    assert response.status_code == 206
    assert response.headers["content-range"] == f"bytes {cut}-{len(CONTENT) - 1}/{len(CONTENT)}"
    assert int(response.headers["content-length"]) == len(CONTENT) - cut
    assert CONTENT[:cut] + response.content == CONTENT
    changed = toy.client.get(PATH, headers={"range": f"bytes={cut}-", "if-range": '"other"'})
    assert (changed.status_code, changed.content) == (200, CONTENT)


def test_ranges_outside_and_many_ranges(toy: LiveHub) -> None:
    outside = toy.client.get(PATH, headers={"range": f"bytes={len(CONTENT)}-"})
    assert outside.status_code == 416
    assert outside.headers["content-range"] == f"bytes */{len(CONTENT)}"
    assert outside.json()["type"] == "/problems/range-not-satisfiable"
    many = toy.client.get(PATH, headers={"range": "bytes=" + ",".join(["0-1"] * 10_000)[:60_000]})
    assert many.status_code == 200


def test_unknown_and_malformed_digests(toy: LiveHub) -> None:
    for path in (UNKNOWN, UNKNOWN + "/manifest"):
        response = toy.client.get(path)
        assert response.status_code == 404
        assert response.json()["type"] == "/problems/unknown-artifact"
    for digest in ("sha256:" + "A" * 64, "sha256:..", "md5:" + "0" * 32, "sha256:" + "0" * 63 + "%0a", "%2e%2e"):
        for tail in ("", "/manifest"):
            response = toy.client.get(f"/artifacts/{digest}{tail}")
            assert response.status_code == 422, digest
            assert response.json()["errors"][0]["pointer"] == "/digest"


def test_the_manifest_of_an_artifact(toy: LiveHub) -> None:
    manifest = toy.client.get(PATH + "/manifest").json()
    assert manifest["digest"] == DIGEST
    assert manifest["params"] == 30 * PARAMS_EACH


def test_no_lease_is_left_after_any_kind_of_answer(toy: LiveHub) -> None:
    manifest = toy.export(31 * PARAMS_EACH).json()
    path = manifest["url"]
    for headers in ({}, {"if-none-match": "*"}, {"range": "bytes=0-9"}, {"range": "bytes=999999-"}):
        toy.client.get(path, headers=headers)
        toy.client.head(path, headers=headers)
    assert toy.hub.store.remove(manifest["digest"])
    assert toy.client.get(path).status_code == 404


def test_an_artifact_is_leased_while_it_is_sent_and_released_when_the_client_goes(
    toy: LiveHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file too large for the socket buffers is being sent: it cannot be evicted; then the client hangs up."""
    content = bytes(64 << 20)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    store = toy.hub.store
    with store.staging() as folder:
        staged = folder / "large.onnx"
        staged.write_bytes(content)
        store.adopt(staged, digest)
    host, port = toy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"GET /artifacts/{digest} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert not store.remove(digest)
    deadline = time.monotonic() + 20
    while not store.remove(digest):
        assert time.monotonic() < deadline, "the lease was never released"
        time.sleep(0.01)


def test_a_file_that_vanished_breaks_the_answer_and_not_the_hub(toy: LiveHub) -> None:
    manifest = toy.export(32 * PARAMS_EACH).json()
    lease = toy.hub.store.lease(manifest["digest"])
    assert isinstance(lease, Lease)
    lease.path.unlink()
    lease.release()
    assert toy.client.get(manifest["url"]).status_code == 404
    assert toy.export(32 * PARAMS_EACH).json()["digest"] == manifest["digest"]
    assert toy.client.get(manifest["url"]).content == toy_network(32)
