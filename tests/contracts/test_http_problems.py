"""The contract of every route, whatever it is sent: a documented status, and a problem that has its shape."""

from __future__ import annotations

import json
import re
import urllib.parse
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.http.problems import PROBLEMS
from service.http.routing import Operation
from service.hub.routes.table import OPERATIONS
from tests.service.hub.live_hub import LiveHub, live_hub


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """A running hub with the model `toy`."""
    with live_hub(tmp_path_factory.mktemp("contract")) as running:
        yield running


segments = st.one_of(
    st.sampled_from(["toy", "nobody", "sha256:" + "0" * 64, "0" * 32, "..", "not-ready"]),
    st.text(min_size=1, max_size=20),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([9, 100, 576, "toy", "instant", "refined", 0.0, [[0, 0, 0, 0, 0, 0]], {"x": [[0, 1, 2, 3, 4, 5]]}]),
    st.floats(),
    st.text(max_size=10),
)
members = st.sampled_from(
    ["model", "target_params", "target_macs", "target_bytes", "quality", "multiple_of", "inputs", "wait_seconds", "x"]
)
bodies = st.one_of(
    st.binary(max_size=50),
    st.dictionaries(members, scalars, max_size=5).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(members, scalars, max_size=3).map(lambda value: json.dumps({"model": "toy", **value}).encode()),
)
headers = st.dictionaries(
    st.sampled_from(["accept", "range", "if-none-match", "if-range", "prefer", "repr-digest", "content-encoding"]),
    st.one_of(
        st.sampled_from(["application/octet-stream", "bytes=0-1", "*", "wait=0", "sha-256=:AAAA:", "gzip", "identity"]),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
    ),
    max_size=3,
)


def path_of(operation: Operation, segment: str) -> str:
    return re.sub(r"\{.*?\}", lambda _: urllib.parse.quote(segment, safe=""), operation.path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(OPERATIONS), segments, bodies, headers, st.text(max_size=20))
def test_whatever_a_route_is_sent_it_answers_as_documented(
    toy: LiveHub, operation: Operation, segment: str, body: bytes, sent: dict[str, str], query: str
) -> None:
    path = path_of(operation, segment)
    if operation.method == "DELETE" and segment == "toy":
        return
    content = body if operation.body is not None else None
    response = toy.client.request(
        operation.method, path, content=content, headers=sent, params={"params": query, "replace": query}
    )
    check(answering(operation, response), response)


@pytest.mark.parametrize(
    ("method", "path", "segment", "expected"),
    [
        ("GET", "/fleet/nodes/{node}/desired", "..", None),
        ("GET", "/fleet/nodes/{node}/desired", ".", "/fleet/nodes/{node}"),
        ("GET", "/fleet/nodes/{node}/desired", "a/b", None),
        ("GET", "/models/{model}", "..", None),
        ("GET", "/models/{model}", "toy", "/models/{model}"),
    ],
)
def test_a_dot_segment_can_lead_to_another_route(
    toy: LiveHub, method: str, path: str, segment: str, expected: str | None
) -> None:
    operation = next(each for each in OPERATIONS if (each.method, each.path) == (method, path))
    response = toy.client.request(method, path_of(operation, segment))
    found = answering(operation, response)
    assert (found and found.path) == expected
    check(found, response)


def answering(operation: Operation, response: Any) -> Operation | None:
    """The operation that was asked in the end, if any: clients take dot segments out, an escaped slash is a slash."""
    sent = response.request.url.path

    def is_asked(other: Operation) -> bool:
        parts = re.split(r"(\{.*?\})", other.path)
        pattern = "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in parts)
        return other.method == operation.method and re.fullmatch(pattern, sent) is not None

    return operation if is_asked(operation) else next(filter(is_asked, OPERATIONS), None)


def check(operation: Operation | None, response: Any) -> None:
    """A response is documented for its operation; where there is none, only administrators are told so under /fleet."""
    status = response.status_code
    if status < 400:
        assert operation is not None
        assert status in operation.answers
        return
    assert status < 500 or (operation is not None and operation.path == "/readyz" and status == 503), response.text
    if response.request.method == "HEAD":
        return
    problem = response.json()
    code = problem["type"].removeprefix("/problems/")
    documented = operation.problems if operation is not None else ("invalid-admin-key",)
    assert code in documented or code in ("unknown-route", "method-not-allowed"), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["title"]) == (status, PROBLEMS[code][1])
    assert problem["instance"] == f"urn:uuid:{uuid.UUID(response.headers['x-request-id'])}"
    for entry in problem.get("errors", ()):
        assert set(entry) == {"pointer", "detail"}
        assert entry["pointer"] == "" or entry["pointer"].startswith("/")
    if status == 422 and problem["type"] == "/problems/invalid-request":
        assert problem["errors"]


def test_problem_types_can_be_fetched(toy: LiveHub) -> None:
    for code, (status, title) in PROBLEMS.items():
        answer = toy.client.get(f"/problems/{code}")
        assert answer.status_code == 200
        assert answer.json() == {"type": f"/problems/{code}", "title": title, "status": status}
