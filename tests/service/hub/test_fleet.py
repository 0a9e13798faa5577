"""The life of nodes at a hub, over HTTP: enrolment, releases, roll-backs, problems, budgets that devices measure."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.contract.measurement_order import MeasurementOrder
from service.inference.reference_outputs import check
from service.inference.session import open_session
from service.signing.keyring import Keyring
from tests.service.hub.fake_builder import FULL_PARAMS
from tests.service.hub.fleet.simulated import PARAMS_EACH, Admin, Node, enrolled
from tests.service.hub.fleet_hub import eventually, fleet_hub
from tests.service.hub.live_hub import LiveHub, checkpoint_bytes

PROMPTLY_SECONDS = 1.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveHub, Admin]]:
    with fleet_hub(tmp_path_factory.mktemp("fleet")) as pair:
        yield pair


@pytest.fixture
def toy(running: tuple[LiveHub, Admin]) -> LiveHub:
    return running[0]


@pytest.fixture
def admin(running: tuple[LiveHub, Admin]) -> Admin:
    return running[1]


def test_a_release_leads_to_an_artifact_that_passes_its_self_test(toy: LiveHub, admin: Admin, tmp_path: Path) -> None:
    node = enrolled(toy.client, "first", site="x")
    generation = admin.set("first", 20 * PARAMS_EACH + 3, policy={"max_p95_ms": 7.5})
    told = node.follow()
    release = node.opened(told["release"])
    assert (told["generation"], release.version) == (generation, generation)
    assert release.manifest["params"] == 20 * PARAMS_EACH
    assert release.policy.max_p95_ms == 7.5
    assert not set(release.manifest) & {"url", "cached"}
    content = toy.client.get(f"/artifacts/{release.digest}").content
    assert len(content) == release.manifest["bytes"]
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    session = open_session(
        path, digest=release.digest, size_bytes=len(content), threads=1, providers=["CPUExecutionProvider"]
    )
    assert release.self_test["outputs"]["y"]["values"]
    check(session, release.self_test)
    shown = admin.node("first")
    assert (shown["state"], shown["stale"], shown["problem"]) == ("committed", False, None)
    assert shown["desired"]["digest"] == shown["reported"]["active"]["digest"] == release.digest
    assert shown["labels"] == {"site": "x"}


def test_a_change_reaches_a_waiting_node_promptly(toy: LiveHub, admin: Admin) -> None:
    node = enrolled(toy.client, "waiting")
    admin.set("waiting", 5 * PARAMS_EACH)
    node.follow()
    toy.export(6 * PARAMS_EACH)  # what is to be delivered is there: this measures the notification
    told: list[tuple[Any, float]] = []

    def wait() -> None:
        told.append((node.desired(wait=30), time.monotonic()))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    admin.set("waiting", 6 * PARAMS_EACH)
    thread.join()
    assert told[0][0]["desired"]["params"] == 6 * PARAMS_EACH
    assert told[0][1] - began < PROMPTLY_SECONDS


def test_without_news_the_wait_ends_empty(toy: LiveHub, admin: Admin) -> None:
    node = enrolled(toy.client, "bored")
    assert node.desired(wait=0.05) is None
    admin.set("bored", 5 * PARAMS_EACH)
    node.follow()
    began = time.monotonic()
    assert node.desired(wait=0.2) is None
    assert time.monotonic() - began >= 0.2
    assert node.desired(after=0) is not None


def test_going_back_brings_the_same_artifact_as_a_newer_release(toy: LiveHub, admin: Admin) -> None:
    node = enrolled(toy.client, "back")
    digests = []
    for units in (7, 8):
        admin.set("back", units * PARAMS_EACH)
        digests.append(node.follow()["desired"]["digest"])
    builds = len(toy.builds())
    answer = admin.call("POST", "/fleet/nodes/back/rollback")
    assert answer.status_code == 200
    release = node.opened(node.follow()["release"])
    assert (release.digest, release.rollback, release.version) == (digests[0], True, 3)
    assert len(toy.builds()) == builds
    fresh = enrolled(toy.client, "fresh")
    assert admin.call("POST", "/fleet/nodes/fresh/rollback").json()["type"] == "/problems/nothing-to-roll-back"
    assert fresh.desired() is None


def test_what_cannot_be_made_is_told_and_leaves_the_node_alone(toy: LiveHub, admin: Admin) -> None:
    node = enrolled(toy.client, "small")
    admin.set("small", 5 * PARAMS_EACH)
    node.follow()
    admin.set("small", 1)
    told = node.desired(wait=20)
    assert told is not None
    assert told["release"] is None
    assert told["problem"]["type"] == "/problems/budget-unreachable"
    assert told["problem"]["minimum"] == PARAMS_EACH
    node.known = told["generation"]
    shown = admin.node("small")
    assert shown["problem"]["type"] == "/problems/budget-unreachable"
    assert shown["reported"]["state"] == "committed"
    admin.set("small", 9 * PARAMS_EACH)
    assert node.follow()["desired"]["params"] == 9 * PARAMS_EACH
    assert admin.node("small")["problem"] is None


def test_a_model_that_comes_later_is_taken_up_by_itself(toy: LiveHub, admin: Admin) -> None:
    node = enrolled(toy.client, "early")
    body = {"model": "later", "budget": {"unit": "params", "value": 90}}
    admin.call("PUT", "/fleet/nodes/early/desired", body)
    told = node.desired(wait=20)
    assert told is not None
    assert told["problem"]["type"] == "/problems/unknown-model"
    node.known = told["generation"]
    assert toy.client.put("/models/later", content=checkpoint_bytes("later")).status_code == 201
    assert node.follow()["desired"]["model"] == "later"


def test_a_node_says_what_it_was_started_with(toy: LiveHub, admin: Admin) -> None:
    node = enrolled(toy.client, "declares")
    declared = {"model": "toy", "budget": {"unit": "params", "value": 11 * PARAMS_EACH}}
    node.report("idle", declared=declared)
    told = node.follow()
    assert (told["desired"]["params"], told["desired"]["origin"]) == (11 * PARAMS_EACH, "declared")
    admin.set("declares", 12 * PARAMS_EACH)
    node.report("idle", declared=declared)
    assert node.follow()["desired"]["params"] == 12 * PARAMS_EACH


def test_a_builder_that_breaks_is_tried_again_without_a_word_to_the_node(toy: LiveHub, admin: Admin) -> None:
    node = enrolled(toy.client, "patient")
    trouble = toy.control / "break"
    trouble.touch()
    try:
        admin.set("patient", 33 * PARAMS_EACH)
        eventually(lambda: admin.node("patient")["problem"], "a problem")
        assert node.desired() is None
    finally:
        trouble.unlink()
    assert node.follow()["desired"]["params"] == 33 * PARAMS_EACH


def test_a_release_is_signed_anew_when_its_key_no_longer_counts(toy: LiveHub, admin: Admin) -> None:
    node = enrolled(toy.client, "keys")
    admin.set("keys", 5 * PARAMS_EACH)
    first = node.desired(wait=20)
    assert first is not None
    assert node.desired() == first
    content = node.opened(first["release"]).content_digest
    toy.hub.fleet.vault.revoke(first["release"]["signatures"][0]["key_id"])
    again = node.desired()
    assert again is not None
    assert again["generation"] == first["generation"]
    assert again["release"]["signatures"] != first["release"]["signatures"]
    assert node.opened(again["release"]).content_digest == content


def test_an_artifact_that_was_evicted_is_made_again(toy: LiveHub, admin: Admin) -> None:
    node = enrolled(toy.client, "evicted")
    admin.set("evicted", 41 * PARAMS_EACH)
    told = node.desired(wait=20)
    assert told is not None
    digest = told["desired"]["digest"]
    eventually(lambda: _closed(toy, digest), "an idle session")
    assert toy.client.get(f"/artifacts/{digest}").status_code == 404
    assert node.desired() is not None
    eventually(lambda: toy.client.head(f"/artifacts/{digest}").status_code == 200, "the artifact")


def _closed(toy: LiveHub, digest: str) -> bool:
    """Removes an artifact as an eviction does; its session must have been closed before."""
    loop = toy.hub.builders_started.get_loop()
    asyncio.run_coroutine_threadsafe(toy.hub.sessions.evict_idle(), loop).result(20)
    return toy.hub.store.remove(digest)


@pytest.mark.parametrize("unit", ["latency_ms", "memory_bytes"])
def test_a_budget_that_the_device_measures_ends_within_it(toy: LiveHub, admin: Admin, unit: str) -> None:
    name = f"measures-{unit.partition('_')[0]}"
    node = enrolled(toy.client, name)
    limit = 2.0 if unit == "latency_ms" else 100_000 + 300 * 1000
    admin.call("PUT", f"/fleet/nodes/{name}/desired", {"model": "toy", "budget": {"unit": unit, "value": limit}})
    rounds = 0
    while (told := node.desired(wait=20)) is not None and told["probe"] is not None:
        rounds += 1
        assert node.root is not None
        keyring = Keyring.open(toy.client.get("/fleet/keyring").content, node.root)
        probe = MeasurementOrder.open(told["probe"], keyring)
        node.known = probe.version
        node.report("idle", timings=[timing(rung.digest, rung.macs) for rung in probe.ladder])
    assert told is not None
    assert told["release"] is not None, told
    assert 2 <= rounds <= 4  # the ladder and one to three exports
    release = node.opened(told["release"])
    macs = release.manifest["macs"]
    row = timing(release.digest, macs)
    value = row["p95_ms"] if unit == "latency_ms" else row["resident_bytes"]
    assert value <= limit
    largest = 300 // PARAMS_EACH * PARAMS_EACH
    assert macs >= 0.9 * largest - PARAMS_EACH
    assert release.manifest["quality"] == "refined"


def timing(digest: str, macs: int) -> dict[str, Any]:
    """What a made-up device measures: 0.5 ms and 5 microseconds, 100 kB and 1 kB for each MAC."""
    latency = 0.5 + 0.005 * macs
    return {
        "digest": digest,
        "batch": 1,
        "threads": 1,
        "p50_ms": latency,
        "p95_ms": latency,
        "runs": 100,
        "resident_bytes": 100_000 + 1000 * macs,
    }


@pytest.mark.parametrize(("limit", "outcome"), [(0.1, "budget-unreachable"), (1000.0, "full")])
def test_measured_budgets_outside_of_what_the_network_has(
    toy: LiveHub, admin: Admin, limit: float, outcome: str
) -> None:
    node = enrolled(toy.client, f"extreme-{outcome}")
    body = {"model": "toy", "budget": {"unit": "latency_ms", "value": limit}}
    admin.call("PUT", f"/fleet/nodes/{node.name}/desired", body)
    while (told := node.desired(wait=20)) is not None and told["probe"] is not None:
        node.known = told["generation"]
        ladder = told["probe"]["signed"]["ladder"]
        node.report("idle", timings=[timing(rung["digest"], rung["macs"]) for rung in ladder])
    assert told is not None
    if outcome == "full":
        assert told["desired"]["params"] == FULL_PARAMS
    else:
        assert told["problem"]["type"] == f"/problems/{outcome}"
        assert told["problem"]["unit"] == "latency_ms"


def test_a_device_that_measures_nothing_is_told_so(toy: LiveHub, admin: Admin) -> None:
    node = enrolled(toy.client, "mute")
    body = {"model": "toy", "budget": {"unit": "latency_ms", "value": 2}}
    admin.call("PUT", "/fleet/nodes/mute/desired", body)
    told = node.desired(wait=20)
    assert told is not None
    assert told["probe"] is not None
    node.known = told["generation"]
    node.report("failed", error={"code": "probe-failed", "detail": "no memory", "generation": node.known})
    told = node.desired(wait=20)
    assert told is not None
    assert told["problem"]["type"] == "/problems/device-not-measured"


def test_the_list_waits_for_changes(toy: LiveHub, admin: Admin) -> None:
    enrolled(toy.client, "listed", kind="camera")
    listed = admin.call("GET", "/fleet/nodes?label=kind=camera").json()
    assert [node["node"] for node in listed["nodes"]] == ["listed"]
    answers: list[tuple[dict[str, Any], float]] = []
    # the hub's own tick changes nothing: only a change ends the wait
    thread = threading.Thread(
        target=lambda: answers.append(
            (admin.call("GET", f"/fleet/nodes?after={revision}&wait=30").json(), time.monotonic())
        )
    )
    revision = admin.call("GET", "/fleet/nodes").json()["revision"]
    thread.start()
    time.sleep(0.3)
    assert not answers
    began = time.monotonic()
    admin.call("PATCH", "/fleet/nodes/listed", {"labels": {"kind": None, "floor": "2"}})
    thread.join()
    answer, ended = answers[0]
    assert ended - began < PROMPTLY_SECONDS
    assert answer["revision"] > revision
    assert [node["labels"] for node in answer["nodes"] if node["node"] == "listed"] == [{"floor": "2"}]
    assert admin.call("GET", "/fleet/nodes?after=1&wait=30").json()["revision"] >= answer["revision"]


def test_a_removed_node_is_a_stranger(toy: LiveHub, admin: Admin) -> None:
    node = enrolled(toy.client, "gone")
    admin.set("gone", 5 * PARAMS_EACH)
    node.follow()
    assert admin.call("DELETE", "/fleet/nodes/gone").status_code == 204
    assert node.send("GET", "/fleet/nodes/gone/desired").json()["type"] == "/problems/unknown-key"
    assert admin.call("GET", "/fleet/nodes/gone").status_code == 404
    again = Node(toy.client, "gone")
    assert again.enroll(admin.token("gone")).status_code == 201
    assert admin.set("gone", 5 * PARAMS_EACH) == 2  # a node that kept what it trusted must find later numbers


def test_preconditions(toy: LiveHub, admin: Admin) -> None:
    enrolled(toy.client, "matched")
    body = {"model": "toy", "budget": {"unit": "params", "value": 90}}
    first = admin.call("PUT", "/fleet/nodes/matched/desired", body, headers={"if-match": '"0"'})
    assert (first.status_code, first.headers["etag"]) == (200, '"1"')
    stale = admin.call("PUT", "/fleet/nodes/matched/desired", body, headers={"if-match": '"0"'})
    assert (stale.status_code, stale.json()["generation"]) == (412, 1)
    for header in ('"x"', '"1", "2"', "-1"):
        answer = admin.call("PUT", "/fleet/nodes/matched/desired", body, headers={"if-match": header})
        assert answer.status_code == 422


def test_metrics_count_nodes_by_state(toy: LiveHub, admin: Admin) -> None:
    enrolled(toy.client, "counted")

    def new_nodes() -> float:
        families = text_string_to_metric_families(toy.client.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "inn_fleet_nodes" and sample.labels == {"state": "new"}
        )

    eventually(lambda: new_nodes() >= 1, "a new node in the metrics")
