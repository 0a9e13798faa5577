"""Probes: the sizes that the hub asks about are measured and reported, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from service.contract.sizes import Budget
from service.node.agent import measuring
from service.node.benchmark import run as probe
from service.node.benchmark.run import BenchmarkSettings
from tests.service.node.fake_hub import FakeHub, digest_of
from tests.service.node.nodes import live_node

SHORT = BenchmarkSettings(warm_up_seconds=0.0, burst_seconds=0.01, least_runs=5, least_bursts=1, seconds=0.1)


def test_a_probe_is_measured_reported_and_followed_by_a_release(
    hub: FakeHub, small: bytes, large: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "DEFAULTS", SHORT)
    contents = [small, large]
    budget = {"unit": "latency_ms", "value": 5, "batch": 2, "threads": 1, "percentile": 95}
    desired = {"model": "toy", "budget": budget}
    hub.tell(None, generation=1, desired=desired, probe=hub.probe(contents, 1, batch=2))
    written: set[str] = set()

    async def before(request: Request) -> None:
        if request.url.path.startswith("/artifacts/"):
            written.update(path.suffix for path in (tmp_path / "staging").iterdir())

    hub.before = before
    with live_node(hub, tmp_path, budget=Budget("latency_ms", 5.0, batch=2)) as node:
        report = hub.wait_report(lambda report: len(report["timings"]) == 2 and report["observed_generation"] == 1)
        assert report["declared"]["budget"] == budget
        rows = {row["digest"]: row for row in report["timings"]}
        assert set(rows) == {digest_of(content) for content in contents}
        assert written == {".probe"}  # out of the way of what is to serve
        for row in rows.values():
            assert (row["batch"], row["threads"]) == (2, 1)
            assert 0 < row["p50_ms"] <= row["p95_ms"]
            assert row["resident_bytes"] > 0
        hub.tell(hub.release(large, 2), desired=desired)
        hub.wait_state("committed", 2)
        # What serves is measured, too, in the place of the row of the probe.
        last = hub.wait_report(
            lambda report: (
                report["state"] == "committed"
                and any(row not in rows.values() and row["digest"] == digest_of(large) for row in report["timings"])
            )
        )
        assert len(last["timings"]) == 2
        assert node.infer().json()["digest"] == digest_of(large)
    assert not any((tmp_path / "staging").iterdir())
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [f"{digest_of(large)[7:]}.onnx"]


def test_a_rung_that_the_hub_has_lost_is_asked_for_again(
    hub: FakeHub, small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "DEFAULTS", SHORT)
    document = hub.probe([small], 3)
    del hub.artifacts[digest_of(small)]
    hub.tell(None, generation=3, probe=document)
    asked: list[int] = []

    async def before(request: Request) -> None:
        if request.url.path.endswith("/desired"):
            asked.append(int(request.query_params["after"]))
            if len(asked) > 1 and asked[-1] < 3:
                hub.artifacts[digest_of(small)] = small  # as the hub does when a node asks for what it was told before

    hub.before = before
    with live_node(hub, tmp_path):
        hub.wait_report(lambda report: len(report["timings"]) == 1 and report["observed_generation"] == 3)
    assert asked[0] == 0
    assert 2 in asked[1:]


def test_a_size_that_cannot_be_measured_ends_the_probe_and_says_so(
    hub: FakeHub, small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "DEFAULTS", SHORT)
    junk = b"no network " * 1000
    document = hub.probe([small, junk], 1)
    hub.tell(None, generation=1, probe=document)
    with live_node(hub, tmp_path):
        report = hub.wait_state("failed", 1)
        assert report["error"]["code"] == "probe-failed"
        assert report["next_retry"] is None
        assert [row["digest"] for row in report["timings"]] == [digest_of(small)]
        # That the hub goes on to answer says nothing about the size: it is shown until there is another probe.
        told = len(hub.reports)
        hub.wait_report(lambda _: len(hub.reports) >= told + 3)
        assert {one["state"] for one in hub.reports[told:]} == {"failed"}
        hub.tell(None, generation=2, probe=hub.probe([small], 2))
        assert hub.wait_state("idle", 2)["error"] is None


def test_a_size_out_of_its_budget_is_measured_again_soon(
    hub: FakeHub, large: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "DEFAULTS", SHORT)
    monkeypatch.setattr(measuring, "SOON_SECONDS", 0.05)
    budget = {"unit": "latency_ms", "value": 1e-6, "batch": 1, "threads": 1, "percentile": 95}
    hub.tell(hub.release(large, 1), desired={"model": "toy", "budget": budget})
    with live_node(hub, tmp_path, budget=Budget("latency_ms", 1e-6)):
        hub.wait_state("committed", 1)
        seen: list[object] = []

        def is_another(report: dict[str, Any]) -> bool:
            if report["timings"] and report["timings"] not in seen:
                seen.append(report["timings"])
            return len(seen) >= 3

        hub.wait_report(is_another)
