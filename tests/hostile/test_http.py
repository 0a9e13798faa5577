"""Hostile and mistaken requests over HTTP: each has its own problem, shows nothing of the hub and harms nobody."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.hub.fake_builder import PARAMS_EACH
from tests.service.hub.live_hub import LiveHub, live_hub

GOOD_ROW = [[0.0] * 6]
MAX_BODY = 200_000
MAX_INFLATED = 400_000
MAX_CHECKPOINT = 100_000


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """A hub with small limits."""
    folder = tmp_path_factory.mktemp("hostile")
    limits = {
        "max_body_bytes": MAX_BODY,
        "max_inflated_bytes": MAX_INFLATED,
        "max_checkpoint_bytes": MAX_CHECKPOINT,
    }
    with live_hub(folder, **limits) as running:
        yield running


@pytest.fixture(autouse=True)
def _alive_and_silent(toy: LiveHub) -> Iterator[None]:
    """After every attack the hub serves as before."""
    yield
    response = toy.infer({"x": GOOD_ROW}, target_params=100)
    assert response.status_code == 200
    assert response.json()["outputs"] == {"y": [[0.0, 0.0, 0.0]]}
    deadline = time.monotonic() + 10.0  # the hub may still be noticing that the attacker has hung up
    while left := list((toy.settings.store / "staging").iterdir()):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def check(toy: LiveHub, response: Any, status: int, code: str) -> dict[str, Any]:
    problem: dict[str, Any] = response.json()
    assert (response.status_code, problem["type"]) == (status, f"/problems/{code}"), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"] == f"urn:uuid:{response.headers['x-request-id']}"
    for secret in (str(toy.settings.store), "Traceback", "site-packages", ".py"):
        assert secret not in response.text
    return problem


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({}, "invalid-budget"),
        ({"target_params": 0}, "invalid-budget"),
        ({"target_params": -1}, "invalid-budget"),
        ({"target_params": 1.5}, "invalid-budget"),
        ({"target_params": 100.0}, "invalid-budget"),
        ({"target_params": "100"}, "invalid-budget"),
        ({"target_params": True}, "invalid-budget"),
        ({"target_params": [100]}, "invalid-budget"),
        ({"target_params": 10**30}, "invalid-budget"),
        ({"target_params": 100, "target_bytes": 100}, "invalid-budget"),
        ({"target_latency_ms": 5, "device": "pi"}, "unsupported-budget"),
        ({"target_params": PARAMS_EACH - 1}, "budget-unreachable"),
        ({"target_bytes": 1}, "budget-unreachable"),
        ({"target_params": 100, "multiple_of": 65}, "budget-unreachable"),
        ({"target_params": 100, "quality": "best"}, "invalid-request"),
        ({"target_params": 100, "quantity": "best"}, "invalid-request"),
    ],
)
def test_targets(toy: LiveHub, members: dict[str, Any], code: str) -> None:
    problem = check(toy, toy.client.post("/export", json={"model": "toy", **members}), 422, code)
    if code == "budget-unreachable":
        assert {"minimum", "maximum", "unit"} <= set(problem)
    else:
        assert problem["errors"]
    if members:
        check(toy, toy.infer({"x": GOOD_ROW}, **members), 422, code)


@pytest.mark.parametrize("model", ["nobody", "TOY", "toy.inn"])
def test_unknown_models(toy: LiveHub, model: str) -> None:
    check(toy, toy.client.post("/export", json={"model": model, "target_params": 100}), 404, "unknown-model")
    check(toy, toy.client.post("/infer", json={"model": model, "inputs": {}}), 404, "unknown-model")
    check(toy, toy.client.get(f"/models/{model}"), 404, "unknown-model")


@pytest.mark.parametrize(
    "model", ["", "../toy", "a/b", "a\\b", "toy\n", "toy\u0000", "é", ".toy", "-", "x" * 65, 5, None, []]
)
def test_names_that_are_none(toy: LiveHub, model: Any) -> None:
    body = {"model": model, "target_params": 100}
    problem = check(toy, toy.client.post("/export", json=body), 422, "invalid-request")
    assert problem["errors"][0]["pointer"] == "/model"


@pytest.mark.parametrize(
    ("inputs", "code", "pointer"),
    [
        ({}, "missing-input", "/inputs"),
        ({"pixels": GOOD_ROW}, "unknown-input", "/inputs/pixels"),
        ({"x": GOOD_ROW, "pixels": GOOD_ROW}, "unknown-input", "/inputs/pixels"),
        ({"x": GOOD_ROW[0]}, "input-shape", "/inputs/x"),
        ({"x": [GOOD_ROW]}, "input-shape", "/inputs/x"),
        ({"x": [[0.0] * 5]}, "input-shape", "/inputs/x"),
        ({"x": [[0.0] * 6, [0.0] * 5]}, "input-shape", "/inputs/x/1"),
        ({"x": []}, "input-shape", "/inputs/x"),
        ({"x": [[]]}, "input-shape", "/inputs/x"),
        ({"x": 1}, "input-type", "/inputs/x"),
        ({"x": "0,0,0,0,0,0"}, "input-type", "/inputs/x"),
        ({"x": [["0"] * 6]}, "input-type", "/inputs/x/0/0"),
        ({"x": [[0, 0, None, 0, 0, 0]]}, "input-type", "/inputs/x/0/2"),
        ({"x": [[0, 0, 0, True, 0, 0]]}, "input-type", "/inputs/x/0/3"),
        ({"x": [[0, 0, 0, 0, {}, 0]]}, "input-type", "/inputs/x/0/4"),
        ({"x": [[0, 0, 0, 0, 0, float("nan")]]}, "input-not-finite", "/inputs/x/0/5"),
        ({"x": [[float("inf"), 0, 0, 0, 0, 0]]}, "input-not-finite", "/inputs/x/0/0"),
        ({"x": [[0, -float("inf"), 0, 0, 0, 0]]}, "input-not-finite", "/inputs/x/0/1"),
        ({"x": [[1e300, 0, 0, 0, 0, 0]]}, "input-not-finite", "/inputs/x/0/0"),
        ({"x": [[10**400, 0, 0, 0, 0, 0]]}, "input-not-finite", "/inputs/x/0/0"),
        ([], "invalid-request", "/inputs"),
        (None, "invalid-request", "/inputs"),
    ],
)
def test_inputs(toy: LiveHub, inputs: Any, code: str, pointer: str) -> None:
    body = json.dumps({"model": "toy", "target_params": 100, "inputs": inputs}).encode()
    problem = check(toy, toy.client.post("/infer", content=body), 422, code)
    assert problem["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("path", ["/infer", "/export"])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"model=toy&target_params=5", b"[" * 50_000, b'{"model": "toy"} x'],
    ids=lambda body: repr(body[:12]),
)
def test_bodies_that_are_no_json_object(toy: LiveHub, path: str, body: bytes) -> None:
    check(toy, toy.client.post(path, content=body), 400, "unreadable-body")


def test_a_member_given_twice(toy: LiveHub) -> None:
    body = b'{"model": "toy", "target_params": 100, "target_params": 500}'
    check(toy, toy.client.post("/export", content=body), 400, "unreadable-body")


def test_a_body_that_is_too_large_as_declared_and_as_sent(toy: LiveHub) -> None:
    body = b'{"model": "toy", "inputs": {"x": [' + b"0," * MAX_BODY + b"0]}}"
    problem = check(toy, toy.client.post("/infer", content=body), 413, "body-too-large")
    assert problem["limit_bytes"] == MAX_BODY
    pieces = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
    check(toy, toy.client.post("/infer", content=pieces), 413, "body-too-large")
    check(toy, toy.client.post("/export", content=b" " * 70_000), 413, "body-too-large")


def test_a_body_that_inflates_without_end(toy: LiveHub) -> None:
    packed = gzip.compress(bytes(100_000_000))
    assert len(packed) < MAX_BODY
    response = toy.client.post("/infer", content=packed, headers={"content-encoding": "gzip"})
    problem = check(toy, response, 413, "body-too-large")
    assert problem["limit_bytes"] == MAX_INFLATED
    response = toy.client.post("/infer", content=b"no gzip", headers={"content-encoding": "gzip"})
    check(toy, response, 400, "unreadable-body")
    response = toy.client.post("/infer", content=b"{}", headers={"content-encoding": "br"})
    check(toy, response, 415, "unsupported-encoding")


def test_checkpoints_too_large_truncated_or_with_a_wrong_digest(toy: LiveHub) -> None:
    large = bytes(MAX_CHECKPOINT + 1)
    check(toy, toy.client.put("/models/evil", content=large), 413, "body-too-large")
    pieces = (large[start : start + 10_000] for start in range(0, len(large), 10_000))
    check(toy, toy.client.put("/models/evil", content=pieces), 413, "body-too-large")
    check(toy, toy.client.put("/models/evil", content=b"toy check"), 422, "invalid-checkpoint")
    response = toy.client.put("/models/evil?digest=sha256:" + "0" * 64, content=b"x")
    problem = check(toy, response, 400, "digest-mismatch")
    assert problem["expected"] == "sha256:" + "0" * 64
    assert "evil" not in toy.client.get("/models").text


@pytest.mark.parametrize(
    "path",
    [
        "/artifacts/sha256:..%2f..%2f..%2fetc%2fpasswd",
        "/artifacts/..%2fcatalogue.sqlite",
        "/artifacts/%2e%2e/%2e%2e/etc/passwd",
        "/models/..%2f..%2fetc%2fpasswd",
        "/jobs/..%2f..%2fetc%2fpasswd",
        "/problems/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/static/../../etc/passwd",
    ],
)
def test_paths_that_try_to_leave(toy: LiveHub, path: str) -> None:
    host, port = toy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    status = int(answer.split(b" ", 2)[1])
    assert status in (404, 422)
    assert b"root:" not in answer
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("method", ["TRACE", "PATCH", "POST", "OPTIONS"])
def test_methods_that_are_not_served(toy: LiveHub, method: str) -> None:
    problem = check(toy, toy.client.request(method, "/models/toy"), 405, "method-not-allowed")
    assert problem["allowed"] == ["DELETE", "GET", "PUT"]


def test_a_client_that_hangs_up_in_the_middle_of_its_body(toy: LiveHub) -> None:
    host, port = toy.url.removeprefix("http://").split(":")
    for head in ("POST /infer", "PUT /models/evil"):
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(f"{head} HTTP/1.1\r\nHost: hub\r\nContent-Length: 1000\r\n\r\nstart".encode())
    assert toy.client.get("/models/evil").status_code == 404


def test_request_ids_cannot_be_forged(toy: LiveHub) -> None:
    response = toy.client.get("/models/nobody", headers={"x-request-id": 'x", "status": 200'})
    check(toy, response, 404, "unknown-model")
