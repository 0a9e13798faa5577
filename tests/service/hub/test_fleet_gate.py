"""The gate in front of the fleet: every route is closed to strangers, and what strangers send harms nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from service.hub.fleet_auth import PUBLIC_ROUTES, SIGNED_BODY_BYTES
from service.signing.keys import KeyPair
from service.signing.node_requests import signed_headers
from tests.service.hub.fleet.simulated import ADMIN, Admin, Node, enrolled
from tests.service.hub.fleet_hub import fleet_hub
from tests.service.hub.live_hub import LiveHub

FOR_ANYONE = {("GET", "/fleet/keyring"), ("POST", "/fleet/enroll")}
FOR_NODES = {("GET", "/fleet/nodes/{node}/desired"), ("PUT", "/fleet/nodes/{node}/reported")}
DENIALS = {"admin": "invalid-admin-key", "node": "unsigned-request"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveHub, Admin]]:
    with fleet_hub(tmp_path_factory.mktemp("gate")) as pair:
        yield pair


@pytest.fixture(scope="module")
def toy(running: tuple[LiveHub, Admin]) -> LiveHub:
    return running[0]


@pytest.fixture(scope="module")
def admin(running: tuple[LiveHub, Admin]) -> Admin:
    return running[1]


@pytest.fixture(scope="module")
def node(toy: LiveHub) -> Node:
    return enrolled(toy.client, "alice")


def code(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).removeprefix("/problems/")


def fleet_routes(toy: LiveHub) -> list[tuple[str, str]]:
    """Every route of the app under /fleet, whoever put it there."""
    found = []
    for route in toy.app.routes:
        assert isinstance(route, Route)
        if route.path.startswith("/fleet"):
            found += [(method, route.path) for method in route.methods or ()]
    return found


def test_every_route_is_closed_to_strangers(toy: LiveHub) -> None:
    routes = fleet_routes(toy)
    assert len(routes) >= 19
    assert set(routes) >= FOR_ANYONE | FOR_NODES
    for method, path in routes:
        if (method, path) in FOR_ANYONE:
            continue
        target = re.sub(r"\{.*?\}", "alice", path)
        kind = "node" if (method, path) in FOR_NODES else "admin"
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic eDp4"}):
            answer = toy.client.request(method, target, headers=headers)
            assert (answer.status_code, code(answer)) == (401, DENIALS[kind]), (method, path)


def test_what_is_opened_is_what_routes_serve(toy: LiveHub) -> None:
    opened = {(one.method, one.path.replace("(?P<node>[^/]+)", "{node}")) for one in PUBLIC_ROUTES}
    assert opened == FOR_ANYONE | FOR_NODES
    assert opened <= set(fleet_routes(toy))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/fleet"),
        ("GET", "/fleet/"),
        ("GET", "/fleet/nothing"),
        ("DELETE", "/fleet/keyring"),
        ("GET", "/fleet/enroll"),
        ("POST", "/fleet/nodes/alice/reported"),
        ("HEAD", "/fleet/nodes"),
        ("GET", "/fleet/nodes/"),
        ("GET", "/%66leet/nodes"),
        ("GET", "/fleet/./nodes"),
        ("GET", "/fleet/nodes/../nodes"),
        ("GET", "/fleet/nodes/%2e%2e/desired/x"),
        ("PUT", "/fleet/keyring"),
        ("GET", "/fleet/keyring/"),
        ("GET", "/fleet/keyring%2f..%2fnodes"),
    ],
)
def test_paths_that_are_no_routes_are_closed_too(toy: LiveHub, method: str, path: str) -> None:
    url = httpx.URL(toy.url).copy_with(raw_path=path.encode())
    answer = toy.client.send(toy.client.build_request(method, url))
    assert answer.status_code == 401, path


def test_other_routes_are_as_they_were(toy: LiveHub) -> None:
    assert toy.client.get("/models").status_code == 200
    assert toy.client.get("/fleets").status_code == 404
    assert toy.client.get("/healthz").status_code == 200


def test_a_denial_says_how_to_come_in_and_nothing_else(toy: LiveHub) -> None:
    answer = toy.client.get("/fleet/nodes/alice")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "an-admin-key" not in answer.text
    assert answer.json()["instance"].startswith("urn:uuid:")
    assert code(toy.client.get("/fleet/nodes/nobody")) == code(answer)  # not even who is there


def test_a_node_may_only_use_its_own_routes(toy: LiveHub, node: Node, admin: Admin) -> None:
    enrolled(toy.client, "bob")
    for method, target in (("GET", "/fleet/nodes/bob/desired"), ("PUT", "/fleet/nodes/bob/reported")):
        answer = node.send(method, target, node.state("idle"))
        assert (answer.status_code, code(answer)) == (403, "other-node")
    for method, target in (("GET", "/fleet/nodes"), ("DELETE", "/fleet/nodes/bob"), ("POST", "/fleet/tokens")):
        assert code(node.send(method, target)) == "invalid-admin-key"
    assert admin.node("bob")["state"] == "new"
    assert admin.call("GET", "/fleet/nodes/bob/desired").status_code == 401  # nor does the admin key make a node


def test_forged_and_repeated_requests(toy: LiveHub, node: Node) -> None:
    target = "/fleet/nodes/alice/desired?after=0&wait=0"
    body = json.dumps(node.state("idle")).encode()
    headers = signed_headers(node.key, node="alice", method="GET", target=target)
    assert toy.client.get(target, headers=headers).status_code == 204
    assert code(toy.client.get(target, headers=headers)) == "replayed-request"
    stranger = signed_headers(KeyPair.generate(), node="alice", method="GET", target=target)
    assert code(toy.client.get(target, headers=stranger)) == "untrusted-signature"
    fresh = signed_headers(node.key, node="alice", method="GET", target=target)
    assert code(toy.client.get(target.replace("wait=0", "wait=1"), headers=fresh)) == "untrusted-signature"
    reported = "/fleet/nodes/alice/reported"
    fresh = signed_headers(node.key, node="alice", method="PUT", target=reported, body=body)
    changed = body.replace(b"idle", b"failed")
    assert code(toy.client.put(reported, content=changed, headers=fresh)) == "untrusted-signature"
    late = signed_headers(node.key, node="alice", method="GET", target=target, time_seconds=int(time.time()) - 4000)
    answer = toy.client.get(target, headers=late)
    assert (answer.status_code, code(answer)) == (401, "clock-skew")
    assert abs(answer.json()["hub_time"] - time.time()) < 10
    for name in ("Inn-Node", "Inn-Time", "Inn-Nonce", "Inn-Signature"):
        fresh = signed_headers(node.key, node="alice", method="GET", target=target)
        assert code(toy.client.get(target, headers={**fresh, name: "../../x"})) == "unsigned-request"


def test_giant_bodies_are_refused(toy: LiveHub, node: Node) -> None:
    giant = {"observed_generation": 0, "state": "idle", "since": 0, "x": "y" * SIGNED_BODY_BYTES}
    assert code(node.send("PUT", "/fleet/nodes/alice/reported", giant)) == "body-too-large"
    for path in ("/fleet/enroll", "/fleet/tokens", "/fleet/rollouts"):
        answer = toy.client.post(path, content=b"[" * (1 << 20), headers=ADMIN)
        assert code(answer) == "body-too-large"
    deep = toy.client.post("/fleet/enroll", content=b'{"a":' * 10_000)
    assert code(deep) == "unreadable-body"


@pytest.mark.parametrize("name", ["..", "%2e%2e%2fx", "a%00b", "-a", "a" * 65, "a%0a", "Robert'); DROP TABLE nodes;--"])
def test_names_that_are_none(toy: LiveHub, admin: Admin, name: str) -> None:
    url = httpx.URL(toy.url).copy_with(raw_path=f"/fleet/nodes/{name.replace(' ', '%20')}".encode())
    answer = toy.client.send(toy.client.build_request("GET", url, headers=ADMIN))
    assert answer.status_code in (404, 422), answer.text
    assert code(answer) in ("unknown-route", "invalid-request")
    body = {"node": name, "token": admin.token(), "public_key": KeyPair.generate().public.text}
    assert code(toy.client.post("/fleet/enroll", json=body)) == "invalid-request"


@pytest.mark.parametrize(
    "labels",
    [
        {"a": 1},
        {"a b": "x"},
        {"../x": "y"},
        {"a": "x" * 129},
        {"a": "line\nbreak"},
        {"a": "\x1b[31mred"},
        {"": "x"},
        {f"l{number}": "x" for number in range(65)},
        {f"l{number}": "x" for number in range(33)},
        ["a"],
        {"a\ud800": "x"},
        {"a": "\ud800"},
    ],
)
def test_labels_that_are_none(admin: Admin, node: Node, labels: Any) -> None:
    content = json.dumps({"labels": labels}).encode()
    answer = admin.client.patch("/fleet/nodes/alice", content=content, headers=ADMIN)
    assert (answer.status_code, code(answer)) == (422, "invalid-request")
    assert admin.node("alice")["labels"] == {}


def test_labels_that_look_like_statements_are_only_text(admin: Admin, node: Node) -> None:
    value = "x'; DROP TABLE nodes; --"
    assert admin.call("PATCH", "/fleet/nodes/alice", {"labels": {"site": value}}).json()["labels"] == {"site": value}
    found = admin.call("GET", "/fleet/nodes", params={"label": f"site={value}"}).json()["nodes"]
    assert [one["node"] for one in found] == ["alice"]
    assert admin.call("GET", "/fleet/nodes", params={"label": "site=' OR 1=1 --"}).json()["nodes"] == []
    admin.call("PATCH", "/fleet/nodes/alice", {"labels": {"site": None}})


@pytest.mark.parametrize(
    "change",
    [
        {"model": "../x"},
        {"budget": None},
        {"budget": {"unit": "params", "value": 0}},
        {"budget": {"unit": "params", "value": 1.5}},
        {"budget": {"unit": "params", "value": True}},
        {"budget": {"unit": "params", "value": 2**60}},
        {"budget": {"unit": "latency_ms", "value": -1}},
        {"budget": {"unit": "seconds", "value": 1}},
        {"budget": {"unit": "params", "value": 9, "percentile": 99}},
        {"budget": {"unit": "params", "value": 9, "extra": 1}},
        {"policy": {"max_error_share": 2}},
        {"policy": {"watch_seconds": -1}},
        {"quality": "best"},
        {"multiple_of": 0},
        {"digest": "sha256:" + "0" * 64},
    ],
)
def test_desired_states_that_are_none(admin: Admin, node: Node, change: dict[str, Any]) -> None:
    before = admin.node("alice")["generation"]
    body = {"model": "toy", "budget": {"unit": "params", "value": 90}, **change}
    answer = admin.call("PUT", "/fleet/nodes/alice/desired", body)
    assert (answer.status_code, code(answer)) == (422, "invalid-request")
    assert answer.json()["errors"][0]["pointer"]
    assert admin.node("alice")["generation"] == before


@pytest.mark.parametrize(
    "change",
    [
        {"state": "stale"},
        {"state": None},
        {"observed_generation": -1},
        {"observed_generation": True},
        {"active": {"version": 1, "digest": "sha256:../x", "params": 1}},
        {"error": {"code": "x" * 65, "detail": ""}},
        {"declared": {"model": "toy", "budget": {"unit": "params", "value": "9"}}},
        {"timings": [{"digest": "sha256:" + "0" * 64, "batch": 1, "threads": 1}] * 65},
        {"since": 1e400},
    ],
)
def test_reports_that_are_none(admin: Admin, node: Node, change: dict[str, Any]) -> None:
    before = admin.node("alice")["reported"]
    answer = node.send("PUT", "/fleet/nodes/alice/reported", {**node.state("idle"), **change})
    assert answer.status_code in (400, 422), answer.text
    assert admin.node("alice")["reported"] == before


@pytest.mark.parametrize(
    "query", ["wait=61", "wait=-1", "wait=nan", "wait=x", "after=-1", "after=x", "after=" + "9" * 17]
)
def test_waits_that_are_none(admin: Admin, node: Node, query: str) -> None:
    assert node.send("GET", f"/fleet/nodes/alice/desired?{query}").status_code == 422
    assert admin.call("GET", f"/fleet/nodes?{query}").status_code == 422
