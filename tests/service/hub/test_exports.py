"""`POST /export` over HTTP: one build for all who ask, the file itself on request, a job when it takes long."""

from __future__ import annotations

import concurrent.futures
import hashlib

import httpx
import onnxruntime
import pytest

from tests.service.hub.fake_builder import FULL_PARAMS, PARAMS_EACH, toy_network
from tests.service.hub.live_hub import LiveHub


def test_an_export_is_the_largest_network_within_the_target(toy: LiveHub) -> None:
    response = toy.export(10 * PARAMS_EACH + 4)
    assert response.status_code == 200, response.text
    manifest = response.json()
    content = toy_network(10)
    assert manifest["params"] == 10 * PARAMS_EACH
    assert manifest["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert manifest["url"] == f"/artifacts/{manifest['digest']}"
    assert manifest["cached"] is False
    assert toy.client.get(manifest["url"]).content == content
    assert toy.client.get(response.headers["content-location"]).json()["digest"] == manifest["digest"]


def test_the_same_request_again_is_cached_and_equal(toy: LiveHub) -> None:
    first = toy.export(11 * PARAMS_EACH).json()
    n_builds = len(toy.builds())
    second = toy.export(11 * PARAMS_EACH).json()
    assert second.pop("cached") is True
    first.pop("cached")
    assert second == first
    assert len(toy.builds()) == n_builds


def test_equal_plans_of_different_targets_share_one_artifact_each_with_its_own_budget(toy: LiveHub) -> None:
    first = toy.export(12 * PARAMS_EACH).json()
    n_builds = len(toy.builds())
    second = toy.export(12 * PARAMS_EACH + 1).json()
    assert second["digest"] == first["digest"]
    assert second["budget"] == {"unit": "params", "value": 12 * PARAMS_EACH + 1}
    assert len(toy.builds()) == n_builds


@pytest.mark.parametrize("unit", ["macs", "bytes"])
def test_other_units(toy: LiveHub, unit: str) -> None:
    response = toy.client.post("/export", json={"model": "toy", f"target_{unit}": 1000})
    assert response.status_code == 200, response.text
    assert response.json()["budget"] == {"unit": unit, "value": 1000}
    assert response.json()[unit] <= 1000


def test_more_than_the_largest_is_the_full_network(toy: LiveHub) -> None:
    manifest = toy.export(10**15).json()
    assert manifest["full_size"] is True
    assert manifest["params"] == FULL_PARAMS


def test_less_than_the_smallest_names_the_range(toy: LiveHub) -> None:
    response = toy.export(PARAMS_EACH - 1)
    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "/problems/budget-unreachable"
    assert (problem["minimum"], problem["maximum"], problem["unit"]) == (PARAMS_EACH, FULL_PARAMS, "params")


def test_the_file_itself_on_request(toy: LiveHub) -> None:
    response = toy.client.post(
        "/export",
        json={"model": "toy", "target_params": 13 * PARAMS_EACH},
        headers={"accept": "application/octet-stream", "range": "bytes=0-1", "if-none-match": "*"},
    )
    content = toy_network(13)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert response.status_code == 200
    assert response.content == content
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["etag"] == f'"{digest}"'
    assert response.headers["inn-params"] == str(13 * PARAMS_EACH)
    assert response.headers["content-disposition"] == f'attachment; filename="toy-{13 * PARAMS_EACH}.onnx"'
    link = response.headers["link"].partition(">")[0].removeprefix("<")
    assert toy.client.get(link).json()["digest"] == digest
    onnxruntime.InferenceSession(response.content, providers=["CPUExecutionProvider"])


def test_64_identical_requests_at_once_make_one_build(toy: LiveHub) -> None:
    before = len(toy.builds())
    limits = httpx.Limits(max_connections=64)
    with httpx.Client(base_url=toy.url, limits=limits, timeout=60.0) as client:
        body = {"model": "toy", "target_params": 14 * PARAMS_EACH}
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            responses = list(pool.map(lambda _: client.post("/export", json=body), range(64)))
    assert {response.status_code for response in responses} == {200}
    assert len({response.json()["digest"] for response in responses}) == 1
    assert len(toy.builds()) == before + 1


@pytest.mark.parametrize("how", ["member", "header"])
def test_past_the_waiting_time_the_answer_is_a_job(toy: LiveHub, how: str) -> None:
    hold = toy.control / "hold"
    hold.touch()
    try:
        size = 15 if how == "member" else 16
        body = {"model": "toy", "target_params": size * PARAMS_EACH}
        if how == "member":
            response = toy.client.post("/export", json={**body, "wait_seconds": 0})
        else:
            response = toy.client.post("/export", json=body, headers={"prefer": "respond-async"})
        assert response.status_code == 202
        job = response.json()
        assert response.headers["location"] == f"/jobs/{job['id']}"
        assert response.headers["retry-after"] == "1"
        assert job["state"] in ("queued", "running")
        assert "result" not in job
    finally:
        hold.unlink()
    assert toy.client.post("/export", json=body).json()["params"] == size * PARAMS_EACH
    done = toy.client.get(response.headers["location"]).json()
    assert done["state"] == "done"
    assert done["result"]["params"] == size * PARAMS_EACH


def test_an_unknown_failure_of_the_builder_shows_nothing_of_itself(toy: LiveHub) -> None:
    trouble = toy.control / "break"
    trouble.touch()
    try:
        response = toy.export(17 * PARAMS_EACH)
    finally:
        trouble.unlink()
    assert response.status_code == 500
    assert response.json()["type"] == "/problems/builder-failed"
    assert "secret" not in response.text
    assert toy.export(17 * PARAMS_EACH).status_code == 200


def test_a_builder_that_is_killed_leaves_no_file_and_the_request_succeeds(toy: LiveHub) -> None:
    (toy.control / "crash").touch()
    response = toy.export(18 * PARAMS_EACH)
    assert response.status_code == 200
    assert toy.client.get(response.json()["url"]).content == toy_network(18)
    assert list((toy.settings.store / "staging").iterdir()) == []
