"""`/jobs/{id}`: looked at, followed as events, given up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.hub.routes import jobs
from tests.service.hub.fake_builder import PARAMS_EACH
from tests.service.hub.live_hub import LiveHub, live_hub


def start(toy: LiveHub, size: int) -> str:
    """Begins an export that is held up; gives the job's path."""
    response = toy.export(size * PARAMS_EACH, wait_seconds=0)
    assert response.status_code == 202
    return response.headers["location"]


def events_of(lines: Any) -> list[tuple[str, dict[str, Any]]]:
    events, name = [], ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            events.append((name, json.loads(line.removeprefix("data: "))))
    return events


def test_a_job_is_followed_to_its_result(toy: LiveHub) -> None:
    hold = toy.control / "hold"
    hold.touch()
    try:
        path = start(toy, 20)
        with toy.client.stream("GET", path, headers={"accept": "text/event-stream"}) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            events = []
            for line in stream.iter_lines():
                events.append(line)
                if '"stage":"fit"' in line:
                    hold.unlink(missing_ok=True)
    finally:
        hold.unlink(missing_ok=True)
    parsed = events_of(events)
    assert [name for name, _ in parsed][-1] == "done"
    assert all(name == job["state"] for name, job in parsed)
    progress = [job["progress"] for _, job in parsed]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    result = parsed[-1][1]["result"]
    assert result["params"] == 20 * PARAMS_EACH
    assert result["url"] == f"/artifacts/{result['digest']}"
    assert result["cached"] is False
    assert toy.client.get(path).json()["result"] == result


def test_a_stream_without_news_has_heartbeats_and_may_be_left(toy: LiveHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "HEARTBEAT_SECONDS", 0.01)
    hold = toy.control / "hold"
    hold.touch()
    try:
        path = start(toy, 24)
        with toy.client.stream("GET", path, headers={"accept": "text/event-stream"}) as stream:
            beats = (line for line in stream.iter_lines() if line == ": heartbeat")
            assert [next(beats) for _ in range(3)] == [": heartbeat"] * 3
        assert toy.client.get(path).json()["state"] in ("queued", "running")  # leaving a stream gives nothing up
    finally:
        hold.unlink()
    assert toy.export(24 * PARAMS_EACH).status_code == 200


def test_a_job_that_is_given_up_is_cancelled_and_can_be_asked_for_again(toy: LiveHub) -> None:
    hold = toy.control / "hold"
    hold.touch()
    try:
        path = start(toy, 21)
        assert toy.client.get(path).headers["retry-after"] == "1"
        cancelled = toy.client.delete(path)
        assert cancelled.status_code == 200
        assert cancelled.json()["state"] == "cancelled"
        assert cancelled.json()["problem"]["type"] == "/problems/job-cancelled"
        assert toy.client.delete(path).json() == cancelled.json()  # a finished job stays as it is
    finally:
        hold.unlink()
    assert toy.export(21 * PARAMS_EACH).json()["params"] == 21 * PARAMS_EACH
    assert toy.client.delete(path).json()["state"] == "done"  # the same build has the same job


def test_a_job_that_others_wait_for_goes_on_when_one_gives_it_up(toy: LiveHub) -> None:
    hold = toy.control / "hold"
    hold.touch()
    try:
        path = start(toy, 27)
        assert start(toy, 27) == path
        assert toy.client.delete(path).json()["state"] in ("queued", "running")
        assert toy.client.delete(path).json()["state"] == "cancelled"
    finally:
        hold.unlink()


def test_a_job_outlives_the_hub(tmp_path: Path) -> None:
    with live_hub(tmp_path) as first:
        path = first.export(9 * PARAMS_EACH, wait_seconds=0).headers["location"]
        manifest = first.export(9 * PARAMS_EACH).json()
    with live_hub(tmp_path) as second:
        job = second.client.get(path).json()
        assert (job["state"], job["kind"], job["url"], job["progress"]) == ("done", "export", path, 1.0)
        assert {**job["result"], "cached": False} == {**manifest, "cached": False}
        with second.client.stream("GET", path, headers={"accept": "text/event-stream"}) as stream:
            assert [name for name, _ in events_of(stream.iter_lines())] == ["done"]
        assert second.client.delete(path).json()["state"] == "done"
        assert second.client.get("/jobs/" + "0" * 64).json()["type"] == "/problems/unknown-job"


def test_a_failed_job_has_its_problem(toy: LiveHub) -> None:
    trouble = toy.control / "break"
    hold = toy.control / "hold"
    trouble.touch()
    hold.touch()
    try:
        response = toy.export(23 * PARAMS_EACH, wait_seconds=0, quality="instant")  # no other test builds it
        with toy.client.stream("GET", response.headers["location"], headers={"accept": "text/event-stream"}) as stream:
            name, job = events_of(stream.iter_lines())[-1]
    finally:
        trouble.unlink()
        hold.unlink()
    assert name == "failed", job
    assert job["problem"]["type"] == "/problems/builder-failed"
    assert job["problem"]["status"] == 500
    assert "instance" not in job["problem"]


def test_unknown_jobs(toy: LiveHub) -> None:
    for path in ("/jobs/" + "0" * 32, "/jobs/x", "/jobs/..%2f..%2fetc"):
        for method in ("GET", "DELETE"):
            response = toy.client.request(method, path)
            assert response.status_code == 404
            assert response.json()["type"] in ("/problems/unknown-job", "/problems/unknown-route")
