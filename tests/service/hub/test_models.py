"""`/models`: uploads are hashed, checked and named; curves are measured once."""

from __future__ import annotations

import base64
import hashlib

import pytest

from tests.service.hub.fake_builder import FULL_PARAMS, PARAMS_EACH
from tests.service.hub.live_hub import LiveHub, checkpoint_bytes


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_model_comes_and_goes(toy: LiveHub) -> None:
    content = checkpoint_bytes("second")
    created = toy.client.put("/models/second", content=content)
    assert created.status_code == 201, created.text
    assert created.headers["location"] == "/models/second"
    body = created.json()
    assert (body["name"], body["checkpoint"], body["size_bytes"]) == ("second", digest_of(content), len(content))
    assert body["feasible"] == {"min": PARAMS_EACH, "max": FULL_PARAMS}
    assert toy.client.get("/models/second").json()["checkpoint"] == digest_of(content)
    assert {model["name"] for model in toy.client.get("/models").json()["models"]} >= {"toy", "second"}

    assert toy.client.put("/models/second", content=content).status_code == 200
    exported = toy.client.post("/export", json={"model": "second", "target_params": 100}).json()
    assert exported["model"] == "second"

    assert toy.client.delete("/models/second").status_code == 204
    for response in (
        toy.client.get("/models/second"),
        toy.client.delete("/models/second"),
        toy.client.get("/models/second/curve"),
        toy.client.post("/export", json={"model": "second", "target_params": 100}),
        toy.client.post("/infer", json={"model": "second", "inputs": {}}),
    ):
        assert response.status_code == 404
        assert response.json()["type"] == "/problems/unknown-model"
    assert toy.client.get(exported["url"]).status_code == 200


def test_another_checkpoint_under_the_same_name_needs_a_word(toy: LiveHub) -> None:
    first, second = checkpoint_bytes("named", version=1), checkpoint_bytes("named", version=2)
    assert toy.client.put("/models/named", content=first).status_code == 201
    refused = toy.client.put("/models/named", content=second)
    assert refused.status_code == 409
    problem = refused.json()
    assert problem["type"] == "/problems/name-conflict"
    assert (problem["existing"], problem["offered"]) == (digest_of(first), digest_of(second))
    replaced = toy.client.put("/models/named?replace=true", content=second)
    assert replaced.status_code == 200
    assert replaced.json()["checkpoint"] == digest_of(second)
    toy.client.delete("/models/named")


@pytest.mark.parametrize("how", ["query", "header"])
def test_an_upload_must_have_the_digest_it_claims(toy: LiveHub, how: str) -> None:
    content = checkpoint_bytes("claimed")

    def put(claimed: bytes) -> int:
        digest = hashlib.sha256(claimed).digest()
        if how == "query":
            return toy.client.put(f"/models/claimed?digest=sha256:{digest.hex()}", content=content).status_code
        header = f"sha-512=:AAAA:, sha-256=:{base64.b64encode(digest).decode()}:"
        return toy.client.put("/models/claimed", content=content, headers={"repr-digest": header}).status_code

    assert put(b"something else") == 400
    assert toy.client.get("/models/claimed").status_code == 404
    assert put(content) == 201
    toy.client.delete("/models/claimed")


def test_chunked_uploads(toy: LiveHub) -> None:
    content = checkpoint_bytes("chunked", padding="x" * 3_000_000)
    pieces = (content[start : start + 100_000] for start in range(0, len(content), 100_000))
    response = toy.client.put("/models/chunked", content=pieces)
    assert response.status_code == 201
    assert response.json()["checkpoint"] == digest_of(content)
    toy.client.delete("/models/chunked")


@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "code"),
    [
        ("/models/bad", b"no checkpoint", {}, 422, "invalid-checkpoint"),
        ("/models/bad", b"", {}, 400, "unreadable-body"),
        ("/models/bad", b"x", {"content-encoding": "gzip"}, 415, "unsupported-encoding"),
        ("/models/bad?replace=yes", b"x", {}, 422, "invalid-request"),
        ("/models/bad?digest=sha256:1", b"x", {}, 422, "invalid-request"),
        ("/models/.bad", b"x", {}, 422, "invalid-request"),
        ("/models/" + "b" * 65, b"x", {}, 422, "invalid-request"),
        ("/models/a%0ab", b"x", {}, 422, "invalid-request"),
    ],
)
def test_bad_uploads_leave_nothing(
    toy: LiveHub, path: str, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    response = toy.client.put(path, content=content, headers=headers)
    assert (response.status_code, response.json()["type"]) == (status, f"/problems/{code}")
    assert list((toy.settings.store / "staging").iterdir()) == []
    assert "bad" not in {model["name"] for model in toy.client.get("/models").json()["models"]}


def test_a_curve_is_measured_once(toy: LiveHub) -> None:
    log = toy.control / "curves.log"
    first = toy.client.get("/models/toy/curve?params=300,200,200")
    assert first.status_code == 200
    assert [point["params"] for point in first.json()["points"]] == [200, 300]
    before = log.read_text()
    assert toy.client.get("/models/toy/curve?params=200,300").json() == first.json()
    assert log.read_text() == before


def test_a_curve_that_takes_long_is_a_job(toy: LiveHub) -> None:
    hold = toy.control / "hold"
    hold.touch()
    try:
        response = toy.client.get("/models/toy/curve?params=111", headers={"prefer": "wait=0"})
        assert response.status_code == 202
        assert response.json()["kind"] == "curve"
    finally:
        hold.unlink()
    done = toy.client.get("/models/toy/curve?params=111")
    assert done.status_code == 200
    assert toy.client.get(response.headers["location"]).json()["result"] == done.json()


@pytest.mark.parametrize("query", ["params=", "params=1,,2", "params=0", "params=-1", "params=1.5", "params=%D9%A1",
                                   "params=" + ",".join(["1"] * 65), "params=" + "9" * 30, "quality=best"])  # fmt: skip
def test_bad_curve_queries(toy: LiveHub, query: str) -> None:
    response = toy.client.get(f"/models/toy/curve?{query}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] in ("/params", "/quality")
