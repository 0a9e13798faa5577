"""Hubs with a life: restarted, killed builders, full stores, refused starts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from service.ground.errors import CoreError, ServiceError
from service.ground.files import hash_file
from service.ground.settings import ApiSettings
from service.hub.app import create_app
from tests.service.hub import fake_builder
from tests.service.hub.fake_builder import PARAMS_EACH, toy_network
from tests.service.hub.live_hub import live_hub, write_checkpoint

ROW = {"x": [[0] * 6]}


def test_a_hub_that_is_restarted_keeps_its_models_and_artifacts(tmp_path: Path) -> None:
    with live_hub(tmp_path) as first:
        manifest = first.export(200).json()
        models = first.client.get("/models").json()
    with live_hub(tmp_path, imports=[]) as second:
        again = second.export(200).json()
        assert again.pop("cached") is True
        assert again == {name: value for name, value in manifest.items() if name != "cached"}
        assert second.client.get("/models").json() == models
        assert second.client.get(manifest["url"]).content == toy_network(22)
        assert len(second.builds()) == 1


def test_a_changed_checkpoint_given_at_the_start_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    with live_hub(tmp_path) as first:
        old = first.client.get("/models/toy").json()["checkpoint"]
    write_checkpoint(tmp_path, version=2)
    with live_hub(tmp_path, imports=[tmp_path / "toy.inn"]) as second:
        assert second.client.get("/models/toy").json()["checkpoint"] != old


@pytest.mark.parametrize("what", ["missing", "damaged"])
def test_a_checkpoint_that_cannot_be_imported_stops_the_start_with_a_reason(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bad.inn"
    if what == "damaged":
        path.write_bytes(b"nothing like it")
    (tmp_path / "control").mkdir()
    command = [sys.executable, fake_builder.__file__, str(tmp_path / "control")]
    app = create_app(ApiSettings(store=tmp_path / "store"), imports=[path], builder_command=command)

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pytest.fail("it started")

    with pytest.raises((ServiceError, FileNotFoundError)) as caught:
        asyncio.run(start())
    if what == "damaged":
        assert isinstance(caught.value, CoreError)
        assert caught.value.code == "invalid-checkpoint"
    (record,) = [record for record in caplog.records if record.getMessage() == "import failed"]
    assert vars(record)["file"] == str(path)


def test_a_killed_builder_is_replaced(tmp_path: Path) -> None:
    with live_hub(tmp_path) as toy:
        assert toy.export(100).status_code == 200
        pid = int(toy.builds()[-1].split()[0])
        os.kill(pid, signal.SIGKILL)
        assert toy.export(300).status_code == 200
        assert int(toy.builds()[-1].split()[0]) != pid


def test_a_full_store_is_told_and_loses_nothing(tmp_path: Path) -> None:
    """The store takes about 1 MiB; what is in it is being read, so nothing may be evicted."""
    with live_hub(tmp_path, store_capacity_bytes=1 << 20) as toy:
        manifest = toy.export(200).json()
        store = toy.hub.store
        with store.staging() as folder:
            filler = folder / "filler"
            filler.write_bytes(bytes((1 << 20) - manifest["bytes"] - 10))
            digest = hash_file(filler)
            store.adopt(filler, digest)
        with store.lease(digest), store.lease(manifest["digest"]):
            response = toy.export(300)
            assert response.status_code == 507
            assert response.json()["type"] == "/problems/store-full"
            assert response.json()["needed_bytes"] > 0
            assert toy.client.get(manifest["url"]).status_code == 200
            assert toy.export(200).json()["cached"] is True
        assert toy.export(300).status_code == 200


def test_idle_sessions_give_their_artifacts_up_when_the_store_is_full(tmp_path: Path) -> None:
    with live_hub(tmp_path, store_capacity_bytes=1 << 20) as toy:
        manifest = toy.export(200).json()
        assert toy.infer(ROW, target_params=200).status_code == 200
        store = toy.hub.store
        with store.staging() as folder:
            filler = folder / "filler"
            filler.write_bytes(bytes((1 << 20) - manifest["bytes"] - 10))
            digest = hash_file(filler)
            store.adopt(filler, digest)
        with store.lease(digest):
            assert toy.export(2 * PARAMS_EACH).status_code == 200
        assert manifest["digest"] not in store
        assert toy.infer(ROW, target_params=200).status_code == 200


def test_a_full_queue_answers_503_with_a_time(tmp_path: Path) -> None:
    with live_hub(tmp_path, queue_limit=1) as toy:
        hold = toy.control / "hold"
        hold.touch()
        try:
            assert toy.export(100, wait_seconds=0).status_code == 202
            refused = toy.export(200, wait_seconds=0)
            assert refused.status_code == 503
            assert refused.json()["type"] == "/problems/queue-full"
            assert int(refused.headers["retry-after"]) >= 1
            assert toy.export(100, wait_seconds=0).status_code == 202
        finally:
            hold.unlink()


def test_a_build_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with live_hub(tmp_path, build_timeout_seconds=1.0) as toy:
        hold = toy.control / "hold"
        hold.touch()
        try:
            response = toy.export(9 * PARAMS_EACH)
        finally:
            hold.unlink()
        assert response.status_code == 504
        assert response.json()["type"] == "/problems/build-timeout"
        assert toy.export(9 * PARAMS_EACH).status_code == 200


def test_a_hub_whose_builders_do_not_start_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    app = create_app(ApiSettings(store=tmp_path / "store"), imports=[], builder_command=command)

    async def probe() -> tuple[int, int]:
        import httpx

        from service.hub import services as hub_module

        async with app.router.lifespan_context(app):
            hub = app.state.hub
            assert isinstance(hub, hub_module.Hub)
            await asyncio.wait([hub.builders_started])
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hub") as client:
                ready = await client.get("/readyz")
                assert ready.json()["type"] == "/problems/not-ready"
                return ready.status_code, (await client.get("/healthz")).status_code

    demo = "service.hub.services.demo_checkpoint"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, lambda: None)
        assert asyncio.run(probe()) == (503, 200)
