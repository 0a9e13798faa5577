"""SIGKILL at any moment: the node that starts again serves the last good size and goes on to what is wanted."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from service.contract.release import Policy
from service.node.deployment.recovery import STARTS_MAX
from tests.service.node.fake_hub import TIMEOUT_SECONDS, FakeHub, digest_of, vectors_of
from tests.service.node.killable import die_at_write, die_in_state, run_until_killed
from tests.service.node.networks import linear_network
from tests.service.node.nodes import live_node, settings_of

FAST = Policy(watch_seconds=0.05, watch_requests=0)


def commit_first(hub: FakeHub, small: bytes, store: Path) -> None:
    hub.tell(hub.release(small, 1))
    with live_node(hub, store):
        hub.wait_state("committed", 1)
    hub.reports.clear()


def killed(target: object, *arguments: object) -> None:
    assert run_until_killed(target, *arguments) == -signal.SIGKILL


@pytest.mark.parametrize("state", ["downloading", "verifying", "staged", "warming", "active", "committed"])
def test_killed_on_the_way_to_a_release(hub: FakeHub, small: bytes, large: bytes, tmp_path: Path, state: str) -> None:
    commit_first(hub, small, tmp_path)
    hub.tell(hub.release(large, 2, policy=FAST))
    killed(die_in_state, settings_of(hub, tmp_path), state)
    assert not [report for report in hub.reports if report["state"] == "committed" and report["active"]["version"] == 2]
    with live_node(hub, tmp_path) as node:
        answer = node.infer()
        assert answer.status_code == 200
        assert answer.json()["digest"] in (digest_of(small), digest_of(large))
        report = hub.wait_state("committed", 2)
        assert report["previous"]["digest"] == digest_of(small)
        assert node.infer().json()["digest"] == digest_of(large)
        assert not any((tmp_path / "staging").iterdir())


def test_what_was_staged_is_taken_up_without_the_hub(hub: FakeHub, small: bytes, large: bytes, tmp_path: Path) -> None:
    commit_first(hub, small, tmp_path)
    hub.tell(hub.release(large, 2, policy=FAST))
    killed(die_in_state, settings_of(hub, tmp_path), "staged")
    with live_node(hub, tmp_path, hub="http://127.0.0.1:1") as node:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while node.infer().json()["digest"] != digest_of(large):
            assert time.monotonic() < deadline


@pytest.mark.parametrize("state", ["failed", "rolled-back"])
def test_killed_when_a_release_was_given_up(
    hub: FakeHub, small: bytes, large: bytes, tmp_path: Path, state: str
) -> None:
    commit_first(hub, small, tmp_path)
    if state == "failed":
        document = hub.release(large, 2, self_test=vectors_of(linear_network(seed=9)))
    else:
        document = hub.release(large, 2, policy=Policy(max_p95_ms=1e-6, watch_seconds=0.05, watch_requests=2))
    hub.tell(document)
    killed(die_in_state, settings_of(hub, tmp_path), state)
    with live_node(hub, tmp_path) as node:
        report = hub.wait_state(state, 2)
        assert report["error"]["code"] in ("self-test-failed", "latency-exceeded")
        assert report["active"]["digest"] == digest_of(small)
        assert node.infer().json()["digest"] == digest_of(small)
        n_reports = len(hub.reports)
        hub.wait_report(lambda report: len(hub.reports) > n_reports + 1)
        assert {report["state"] for report in hub.reports[n_reports:]} == {state}  # not tried again
        hub.tell(hub.release(large, 3))
        hub.wait_state("committed", 3)


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("number", range(1, 9))
def test_killed_at_any_write(
    hub: FakeHub, small: bytes, large: bytes, tmp_path: Path, number: int, before: bool
) -> None:
    """The writes: accept, stage, artifact, warming, previous, active twice (outcome and pointer), committed."""
    commit_first(hub, small, tmp_path)
    hub.tell(hub.release(large, 2, policy=FAST))
    killed(die_at_write, settings_of(hub, tmp_path), number, before)
    with live_node(hub, tmp_path) as node:
        assert node.infer().json()["digest"] in (digest_of(small), digest_of(large))
        report = hub.wait_state("committed", 2)
        assert report["active"]["digest"] == digest_of(large)
        assert report["previous"]["digest"] == digest_of(small)


def test_the_network_that_ends_the_process_again_and_again_is_given_up(
    hub: FakeHub, small: bytes, large: bytes, tmp_path: Path
) -> None:
    commit_first(hub, small, tmp_path)
    hub.tell(hub.release(large, 2, policy=Policy(watch_seconds=600, watch_requests=1000)))
    for _ in range(STARTS_MAX):
        killed(die_in_state, settings_of(hub, tmp_path), "active")
    with live_node(hub, tmp_path) as node:
        report = hub.wait_state("rolled-back", 2)
        assert report["error"]["code"] == "crashed-in-trial"
        assert node.infer().json()["digest"] == digest_of(small)
