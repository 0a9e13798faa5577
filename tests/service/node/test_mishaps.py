"""Mishaps that must not outlast their cause: a full or failing disk, a clock that jumps, nonsense from the network."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from service.ground.errors import StoreFullError
from service.node import hub_client as hub_client
from service.node.agent import measuring
from service.node.agent import supervise as agent
from service.node.agent.backoff import Backoff
from service.node.errors import HubRefusedError
from service.node.store import NodeStore, Outcome
from tests.service.node.fake_hub import FakeHub, digest_of, problem
from tests.service.node.nodes import live_node

NOWHERE = "http://127.0.0.1:1"
FULL = StoreFullError(needed_bytes=1, capacity_bytes=1, free_bytes=0)


@pytest.fixture
def store(hub: FakeHub, small: bytes, large: bytes, tmp_path: Path) -> Path:
    """The folder of a node that has committed `small` as 1 and then `large` as 2."""
    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path):
        hub.wait_state("committed", 1)
        hub.tell(hub.release(large, 2))
        hub.wait_state("committed", 2)
    hub.reports.clear()
    return tmp_path


def note_outcome(store: Path, **members: Any) -> None:
    outcome = {"generation": 2, "state": "active", "error": None, "starts": 0} | members
    (store / "outcome").write_text(json.dumps(outcome))


def fails_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception) -> None:
    """Lets the first call of a function fail."""
    original: Callable[..., Any] = getattr(owner, name)
    calls: list[int] = []

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("outcome", [{"state": "rolled-back"}, {"state": "active", "starts": 2}])
def test_a_full_disk_does_not_keep_a_node_from_starting_with_the_last_good_size(
    hub: FakeHub, store: Path, small: bytes, monkeypatch: pytest.MonkeyPatch, outcome: dict[str, Any]
) -> None:
    note_outcome(store, **outcome)

    def full(self: NodeStore, name: str, value: Any) -> None:
        raise FULL

    with monkeypatch.context() as patched:
        patched.setattr(NodeStore, "_replace", full)
        with live_node(hub, store, hub=NOWHERE) as node:
            assert node.infer().json()["digest"] == digest_of(small)
            assert node.status()["state"] == "rolled-back"
    with live_node(hub, store, hub=NOWHERE) as node:
        assert node.infer().json()["digest"] == digest_of(small)
    assert json.loads((store / "active").read_bytes())["signed"]["version"] == 1


def test_a_trial_that_a_full_disk_keeps_from_ending_ends_when_there_is_room(
    hub: FakeHub, store: Path, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_outcome(store)
    original = NodeStore.write_outcome
    failures: list[Outcome] = []

    def full_at_first(self: NodeStore, outcome: Outcome) -> None:
        if outcome.state == "committed" and not failures:
            failures.append(outcome)
            raise FULL
        original(self, outcome)

    monkeypatch.setattr(NodeStore, "write_outcome", full_at_first)
    with live_node(hub, store) as node:
        deadline = time.monotonic() + 10
        while json.loads((store / "outcome").read_bytes())["state"] != "committed":
            assert time.monotonic() < deadline, "the trial never ended"
            time.sleep(0.02)
        assert node.infer().json()["digest"] == digest_of(large)
    assert failures


def test_a_disk_that_fails_for_a_moment_does_not_cost_a_release(
    hub: FakeHub, tmp_path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fails_once(monkeypatch, NodeStore, "adopt", OSError(errno.EIO, "Input/output error"))
    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path) as node:
        hub.wait_state("committed", 1)  # the failure before may be too short to be reported
        assert "defect while taking up" in caplog.text
        assert node.infer().json()["digest"] == digest_of(small)


def test_a_probe_whose_process_cannot_be_started_is_tried_again(
    hub: FakeHub, tmp_path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_once(monkeypatch, measuring, "measure_ladder", OSError(errno.ENOMEM, "Cannot allocate memory"))
    hub.tell(None, generation=1, probe=hub.probe([small], 1))
    with live_node(hub, tmp_path):
        hub.wait_report(lambda report: len(report["timings"]) == 1 and report["observed_generation"] == 1)


@pytest.mark.parametrize("hub_time", [10**20, -1, 10**3000])
def test_a_forged_time_of_the_hub_does_not_lock_a_node_out(
    hub: FakeHub, tmp_path: Path, small: bytes, hub_time: int
) -> None:
    forged: list[str] = []

    async def forge(request: Request) -> Response | None:
        if request.url.path.endswith("/desired") and not forged:
            forged.append(request.url.path)
            return problem(401, "clock-skew", hub_time=hub_time)
        return None

    hub.before = forge
    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path):
        hub.wait_state("committed", 1)
    assert forged


def test_a_clock_that_was_far_ahead_and_is_set_right_does_not_lock_a_node_out(
    hub: FakeHub, tmp_path: Path, small: bytes, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = [100 * 365 * 86_400.0]
    monkeypatch.setattr(hub_client, "time", SimpleNamespace(time=lambda: time.time() + ahead[0]))
    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path):
        hub.wait_state("committed", 1)
        ahead[0] = 0.0
        hub.tell(hub.release(large, 2))
        hub.wait_state("committed", 2)


def test_text_of_the_hub_that_is_not_unicode_breaks_neither_status_nor_reports(
    hub: FakeHub, tmp_path: Path, small: bytes
) -> None:
    async def odd(request: Request) -> Response | None:
        # Only answers to this question, so that reports arrive.
        answer = {"generation": 2, "problem": {"type": "/problems/odd", "detail": "\ud800"}}
        return Response(json.dumps(answer)) if request.url.path.endswith("/desired") else None

    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path) as node:
        hub.wait_state("committed", 1)
        hub.before = odd
        report = hub.wait_report(lambda report: (report["error"] or {}).get("code") == "odd")
        assert report["error"]["detail"].isascii()
        assert node.client.get("/status").status_code == 200


@pytest.mark.parametrize(
    "odd",
    [{"percentile": 99}, {"percentile": 95.0}, {"batch": "x"}, {"batch": 10**9}, {"value": "5"}, {"value": 10**400}],
)
def test_a_budget_that_means_nothing_starts_no_measurements(
    hub: FakeHub, tmp_path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch, odd: dict[str, Any]
) -> None:
    ordered: list[Any] = []

    async def measured(*arguments: Any, **options: Any) -> dict[str, Any]:
        ordered.append(options)
        row = {"digest": digest_of(small), "batch": 1, "threads": 1, "runs": 9, "resident_bytes": 1}
        return {**row, "p50_ms": 1.0, "p95_ms": 9.0}

    monkeypatch.setattr(measuring, "measure_artifact", measured)
    monkeypatch.setattr(agent, "AFTER_DEFECT_SECONDS", 0.01)
    budget = {"unit": "latency_ms", "value": 5, "batch": 1, "threads": 1, "percentile": 95}
    hub.tell(hub.release(small, 1), desired={"model": "toy", "budget": budget | odd})
    with live_node(hub, tmp_path):
        hub.wait_state("committed", 1)
        time.sleep(0.2)
    assert ordered == []


def test_a_pause_that_the_hub_wants_may_be_any_number() -> None:
    error = HubRefusedError(503, "not-ready", "later", 10**400)
    assert Backoff(0.1, 5.0).failed(error) == 5.0
