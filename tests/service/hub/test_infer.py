"""`POST /infer` over HTTP: the numbers are those of ONNX Runtime, whatever way they took."""

from __future__ import annotations

import concurrent.futures
import gzip
import json

import httpx
import numpy as np
import onnxruntime
import pytest

from tests.service.hub.fake_builder import FEATURES, FULL_PARAMS, PARAMS_EACH, toy_network
from tests.service.hub.live_hub import LiveHub

TOLERANCE = 1e-5  # float32; a run of several rows may add in another order


def expected(size: int, rows: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(toy_network(size), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows})[0]


def random_rows(n_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_rows, FEATURES)).astype(np.float32)


def test_a_size_that_was_never_made_is_made_first(toy: LiveHub) -> None:
    rows = random_rows(5)
    before = len(toy.builds())
    response = toy.infer({"x": rows.tolist()}, target_params=40 * PARAMS_EACH)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert set(answer) == {"model", "params", "digest", "outputs"}
    assert (answer["model"], answer["params"]) == ("toy", 40 * PARAMS_EACH)
    np.testing.assert_allclose(answer["outputs"]["y"], expected(40, rows), rtol=TOLERANCE, atol=TOLERANCE)
    assert len(toy.builds()) == before + 1
    assert toy.export(40 * PARAMS_EACH).json()["digest"] == answer["digest"]
    assert len(toy.builds()) == before + 1


def test_without_a_target_the_full_network_runs(toy: LiveHub) -> None:
    rows = random_rows(2)
    answer = toy.infer({"x": rows.tolist()}).json()
    assert answer["params"] == FULL_PARAMS
    np.testing.assert_allclose(answer["outputs"]["y"], expected(64, rows), rtol=TOLERANCE, atol=TOLERANCE)


def test_other_targets_and_options(toy: LiveHub) -> None:
    rows = random_rows(1)
    for members in ({"target_bytes": 1500}, {"target_macs": 500, "multiple_of": 8, "quality": "instant"}):
        exported = toy.client.post("/export", json={"model": "toy", **members}).json()
        answer = toy.infer({"x": rows.tolist()}, **members).json()
        assert answer["digest"] == exported["digest"]


def test_more_rows_than_one_batch_takes_come_back_in_order(toy: LiveHub) -> None:
    rows = random_rows(333)
    answer = toy.infer({"x": rows.tolist()}, target_params=200).json()
    np.testing.assert_allclose(answer["outputs"]["y"], expected(22, rows), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_body_large_enough_for_a_thread(toy: LiveHub) -> None:
    rows = random_rows(12_000)
    body = json.dumps({"model": "toy", "target_params": 200, "inputs": {"x": rows.tolist()}}).encode()
    assert len(body) > 1 << 20
    answer = toy.client.post("/infer", content=body).json()
    np.testing.assert_allclose(answer["outputs"]["y"], expected(22, rows), rtol=TOLERANCE, atol=TOLERANCE)


def test_many_clients_get_their_own_rows(toy: LiveHub) -> None:
    rows = random_rows(200, seed=3)
    truth = expected(41, rows)
    with httpx.Client(base_url=toy.url, limits=httpx.Limits(max_connections=32), timeout=60.0) as client:

        def one(index: int) -> list[list[float]]:
            body = {"model": "toy", "target_params": 41 * PARAMS_EACH, "inputs": {"x": [rows[index].tolist()]}}
            return client.post("/infer", json=body).json()["outputs"]["y"]

        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            results = list(pool.map(one, range(len(rows))))
    np.testing.assert_allclose(np.concatenate(results), truth, rtol=TOLERANCE, atol=TOLERANCE)


def test_compressed_bodies(toy: LiveHub) -> None:
    rows = random_rows(3)
    body = json.dumps({"model": "toy", "target_params": 200, "inputs": {"x": rows.tolist()}}).encode()
    response = toy.client.post("/infer", content=gzip.compress(body), headers={"content-encoding": "gzip"})
    np.testing.assert_allclose(response.json()["outputs"]["y"], expected(22, rows), rtol=TOLERANCE, atol=TOLERANCE)


def test_a_build_that_takes_long_is_a_job(toy: LiveHub) -> None:
    hold = toy.control / "hold"
    hold.touch()
    try:
        response = toy.infer({"x": [[0] * FEATURES]}, target_params=42 * PARAMS_EACH, wait_seconds=0)
        assert response.status_code == 202
        assert response.headers["location"].startswith("/jobs/")
    finally:
        hold.unlink()
    again = toy.infer({"x": [[0] * FEATURES]}, target_params=42 * PARAMS_EACH)
    assert again.json()["outputs"]["y"] == [[0.0, 0.0, 0.0]]


def test_requests_are_counted_by_registered_models_only(toy: LiveHub) -> None:
    toy.infer({"x": [[0] * FEATURES]}, target_params=200)
    toy.client.post("/infer", json={"model": "made-up", "inputs": {}})
    toy.client.post("/infer", content=b"{")
    text = toy.client.get("/metrics").text
    assert 'inn_infer_requests_total{code="200",model="toy"}' in text
    assert 'inn_infer_requests_total{code="404",model="unknown"}' in text
    assert 'inn_infer_requests_total{code="400",model="unknown"}' in text
    assert "made-up" not in text


@pytest.mark.parametrize("target", [{"target_params": 0}, {"target_params": 1}, {"target_params": "5"}])
def test_bad_targets(toy: LiveHub, target: dict[str, object]) -> None:
    response = toy.infer({"x": [[0] * FEATURES]}, **target)
    assert response.status_code == 422
    assert response.json()["type"] in ("/problems/invalid-budget", "/problems/budget-unreachable")
