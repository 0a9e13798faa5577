"""Rollouts over HTTP: canaries, failures, pause, resume and abort."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.hub.fleet.simulated import PARAMS_EACH, Admin, Node, enrolled
from tests.service.hub.fleet_hub import eventually, fleet_hub
from tests.service.hub.live_hub import LiveHub

N_NODES = 6


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveHub, Admin]]:
    with fleet_hub(tmp_path_factory.mktemp("rollouts")) as pair:
        yield pair


@pytest.fixture
def admin(running: tuple[LiveHub, Admin]) -> Admin:
    return running[1]


@pytest.fixture
def nodes(running: tuple[LiveHub, Admin], request: pytest.FixtureRequest) -> dict[str, Node]:
    """Nodes with a label of their own, each with a committed size."""
    toy, admin = running
    group = request.node.name.replace("_", "-")[5:40].strip("-")
    found = {}
    for number in range(N_NODES):
        node = enrolled(toy.client, f"{group}-{number}", group=group)
        admin.set(node.name, 5 * PARAMS_EACH)
        node.follow()
        found[node.name] = node
    return found


def begin(admin: Admin, nodes: dict[str, Node], units: int, **more: Any) -> dict[str, Any]:
    group = next(iter(nodes)).rpartition("-")[0]
    body = {
        "selector": {"group": group},
        "model": "toy",
        "budget": {"unit": "params", "value": units * PARAMS_EACH},
        "canary_share": 0.34,
        **more,
    }
    answer = admin.call("POST", "/fleet/rollouts", body)
    assert answer.status_code == 201, answer.text
    assert admin.call("GET", answer.headers["location"]).json() == answer.json()
    return dict(answer.json())


def canaries(rollout: dict[str, Any]) -> list[str]:
    return [node["node"] for node in rollout["nodes"] if node["canary"]]


def test_a_rollout_goes_through(admin: Admin, nodes: dict[str, Node]) -> None:
    rollout = begin(admin, nodes, 10, name="ten units")
    first = canaries(rollout)
    assert len(first) == 2
    others = [name for name in nodes if name not in first]
    assert nodes[others[0]].desired(wait=0.3) is None
    for name in first:
        assert nodes[name].follow()["desired"]["origin"] == f"rollout:{rollout['id']}"
    for name in others:
        assert nodes[name].follow()["desired"]["params"] == 10 * PARAMS_EACH
    ended = eventually(lambda: done(admin, rollout), "the end of the rollout")
    assert (ended["state"], ended["counts"]) == ("done", {"committed": N_NODES})
    assert rollout["id"] in [one["id"] for one in admin.call("GET", "/fleet/rollouts").json()["rollouts"]]


def test_failing_canaries_put_everything_back(admin: Admin, nodes: dict[str, Node]) -> None:
    rollout = begin(admin, nodes, 11)
    first = canaries(rollout)
    nodes[first[0]].follow()
    error = {"code": "latency-exceeded", "detail": "p95 is 90 ms", "generation": 2}
    told = nodes[first[1]].desired(wait=20)
    assert told is not None
    nodes[first[1]].known = told["generation"]
    nodes[first[1]].report("rolled-back", error=error)
    ended = eventually(lambda: done(admin, rollout), "the end of the rollout")
    assert ended["state"] == "aborted"
    assert first[1] in ended["reason"]
    for name in first:
        told = nodes[name].follow()
        assert (told["desired"]["params"], told["desired"]["rollback"]) == (5 * PARAMS_EACH, True)
    for name, node in nodes.items():
        if name not in first:
            assert node.desired(wait=0) is None


def test_what_cannot_be_built_fails_the_canaries(admin: Admin, nodes: dict[str, Node]) -> None:
    body = {"unit": "params", "value": 1}
    rollout = begin(admin, nodes, 1, budget=body)
    ended = eventually(lambda: done(admin, rollout), "the end of the rollout")
    assert ended["state"] == "aborted"
    assert "budget-unreachable" in next(node for node in ended["nodes"] if node["canary"])["reason"]
    for name in canaries(ended):
        assert nodes[name].follow()["desired"]["params"] == 5 * PARAMS_EACH


def test_pause_resume_abort(admin: Admin, nodes: dict[str, Node]) -> None:
    rollout = begin(admin, nodes, 12)
    path = f"/fleet/rollouts/{rollout['id']}"
    assert admin.call("POST", f"{path}/pause").json()["state"] == "paused"
    first = canaries(rollout)
    for name in first:
        nodes[name].follow()
    others = [name for name in nodes if name not in first]
    assert nodes[others[0]].desired(wait=0.5) is None
    assert admin.call("POST", f"{path}/resume").status_code == 200
    nodes[others[0]].follow()
    ended = admin.call("POST", f"{path}/abort").json()
    assert (ended["state"], ended["reason"], ended["counts"]) == ("aborted", "on request", {"restored": N_NODES})
    for node in nodes.values():
        assert node.follow()["desired"]["params"] == 5 * PARAMS_EACH
    assert admin.call("POST", f"{path}/resume").status_code == 409
    assert admin.call("POST", f"{path}/abort").status_code == 200
    assert admin.call("POST", f"{path[:-1]}x/abort").json()["type"] == "/problems/unknown-rollout"


@pytest.mark.parametrize(
    "change",
    [
        {"canary_share": 0},
        {"canary_share": 1.1},
        {"max_failures": 0},
        {"bake_seconds": -1},
        {"selector": {"a": 1}},
        {"name": "line\nbreak"},
        {"model": ""},
        {"extra": 1},
    ],
)
def test_rollouts_that_are_none(admin: Admin, change: dict[str, Any]) -> None:
    answer = admin.call("POST", "/fleet/rollouts", {"selector": {}, "model": "toy", **change})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")


def test_a_rollout_for_nobody_is_refused(admin: Admin) -> None:
    body = {"selector": {"group": "nobody"}, "model": "toy"}
    assert admin.call("POST", "/fleet/rollouts", body).json()["type"] == "/problems/empty-rollout"


def done(admin: Admin, rollout: dict[str, Any]) -> dict[str, Any] | None:
    found = admin.rollout(rollout["id"])
    return found if found["state"] in ("done", "aborted") else None
