"""The app as a whole: which paths it has, what it says of itself, and what it never loads."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route

from service.ground.settings import ApiSettings
from service.hub.app import create_app
from service.hub.routes.table import OPERATIONS
from tests.service.hub import fake_builder
from tests.service.hub.live_hub import LiveHub, write_checkpoint

CONTRACT = {
    ("POST", "/export"),
    ("POST", "/infer"),
    ("GET", "/jobs/{job}"),
    ("DELETE", "/jobs/{job}"),
    ("GET", "/artifacts/{digest}"),
    ("HEAD", "/artifacts/{digest}"),
    ("GET", "/artifacts/{digest}/manifest"),
    ("GET", "/models"),
    ("GET", "/models/{model}"),
    ("PUT", "/models/{model}"),
    ("DELETE", "/models/{model}"),
    ("GET", "/models/{model}/curve"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/problems/{code}"),
    ("GET", "/docs"),
    ("GET", "/fleet/keyring"),
    ("POST", "/fleet/enroll"),
    ("GET", "/fleet/nodes"),
    ("GET", "/fleet/nodes/{node}"),
    ("PATCH", "/fleet/nodes/{node}"),
    ("DELETE", "/fleet/nodes/{node}"),
    ("GET", "/fleet/nodes/{node}/desired"),
    ("PUT", "/fleet/nodes/{node}/desired"),
    ("PUT", "/fleet/nodes/{node}/reported"),
    ("POST", "/fleet/nodes/{node}/rollback"),
    ("POST", "/fleet/tokens"),
    ("GET", "/fleet/tokens"),
    ("DELETE", "/fleet/tokens/{token}"),
    ("POST", "/fleet/rollouts"),
    ("GET", "/fleet/rollouts"),
    ("GET", "/fleet/rollouts/{rollout}"),
    ("POST", "/fleet/rollouts/{rollout}/pause"),
    ("POST", "/fleet/rollouts/{rollout}/resume"),
    ("POST", "/fleet/rollouts/{rollout}/abort"),
    ("GET", "/openapi.json"),
}

START_AND_STOP = """
import asyncio, sys
from pathlib import Path
from service.hub.app import create_app
from service.ground.settings import ApiSettings

folder, command = Path(sys.argv[1]), sys.argv[2:]
app = create_app(ApiSettings(store=folder / "store"), imports=[folder / "toy.inn"], builder_command=command)

async def run():
    import httpx
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hub") as client:
            for body in ({"target_params": 100}, {}):
                answer = await client.post("/infer", json={"model": "toy", "inputs": {"x": [[1] * 6]}, **body})
                assert answer.status_code == 200, answer.text
            assert (await client.get("/models/toy/curve")).status_code == 200
            assert (await client.get("/docs")).status_code == 200

asyncio.run(run())
loaded = sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "onnx", "inn_core", "models"))
assert not loaded, loaded
"""


def test_the_app_has_the_paths_of_the_contract_and_no_others(tmp_path: Path) -> None:
    app = create_app(ApiSettings(store=tmp_path / "store"))
    found = set()
    for route in app.routes:
        assert isinstance(route, Route)
        assert route.methods
        found |= {(method, route.path) for method in route.methods}
    implied = {("HEAD", "/docs"), ("HEAD", "/openapi.json")}
    assert found - implied == CONTRACT
    assert not (tmp_path / "store").exists()  # nothing is opened before the app starts


def test_an_api_process_that_serves_never_loads_torch_onnx_or_inn_core(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    control = tmp_path / "control"
    control.mkdir()
    command = [sys.executable, fake_builder.__file__, str(control)]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", START_AND_STOP, str(tmp_path), *command],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_operation_is_documented_with_what_may_go_wrong(toy: LiveHub) -> None:
    document = toy.client.get("/openapi.json").json()
    documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert documented == {(operation.method, operation.path) for operation in OPERATIONS}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"]
            assert operation["description"]
            answers = operation["responses"]
            assert "application/problem+json" in answers["default"]["content"], (method, path)
            for status, answer in answers.items():
                if status.isdecimal() and int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"]
            named = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
    assert "HTTPValidationError" not in str(document)
    references = set(_references(document))
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= set(
        document["components"]["schemas"]
    )


def test_the_page_of_documentation_needs_nothing_from_elsewhere(toy: LiveHub) -> None:
    page = toy.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert "//" not in page.text.replace("https://hub", "")
    for operation in OPERATIONS:
        assert operation.path in page.text


def test_health_and_problems(toy: LiveHub) -> None:
    assert toy.client.get("/healthz").json() == {"status": "alive"}
    deadline = time.monotonic() + 60
    while (ready := toy.client.get("/readyz")).status_code == 503:
        assert ready.json()["type"] == "/problems/not-ready"
        assert time.monotonic() < deadline
    assert ready.json() == {"status": "ready"}
    problem = toy.client.get("/problems/store-full").json()
    assert problem == {"type": "/problems/store-full", "title": "Store full", "status": 507}
    assert toy.client.get("/problems/made-up").status_code == 404


def test_metrics_tell_what_happened(toy: LiveHub) -> None:
    def values() -> dict[str, float]:
        families = text_string_to_metric_families(toy.client.get("/metrics").text)
        return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}

    before = values()
    toy.export(50 * 9)
    toy.export(50 * 9)
    toy.client.get(toy.export(50 * 9).json()["url"])
    toy.infer({"x": [[0] * 6]}, target_params=50 * 9)
    after = values()
    changes = {name: after[name] - before.get(name, 0.0) for name in after}
    assert changes["inn_cache_misses_total"] == 1.0
    assert changes["inn_cache_hits_total"] >= 3.0
    assert changes["inn_artifact_bytes_sent_total"] > 0
    assert changes["inn_infer_batch_rows_sum"] == 1.0
    assert after["inn_infer_pending_requests"] == 0.0
    assert after["inn_sessions_loaded"] >= 1.0
    assert after["inn_cache_bytes"] == toy.hub.store.used_bytes


@pytest.mark.parametrize("path", ["/export/", "/models/", "/v2", "/admin", "/artifacts", "/artifacts/", "/jobs", "/"])
def test_all_else_is_denied(toy: LiveHub, path: str) -> None:
    response = toy.client.get(path)
    assert response.status_code == 404
    assert response.json()["type"] == "/problems/unknown-route"


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for part in value.values() for found in _references(part)]
    if isinstance(value, list):
        return [found for part in value for found in _references(part)]
    return []
