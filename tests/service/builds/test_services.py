"""Models, curves, request keys and upkeep."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.builds.board import JobBoard
from service.builds.curves import CurveService
from service.builds.job import Job
from service.builds.maintenance import UPKEEP_SECONDS, run_maintenance
from service.builds.models import ModelService
from service.contract.export_request import ExportRequest, curve_key, export_key
from service.ground.errors import (
    BodyTooLargeError,
    CoreError,
    InvalidRequestError,
    NameConflictError,
    QueueFullError,
    StoreFullError,
    UnknownModelError,
)
from service.store.catalogue import SqliteCatalogue
from tests.service.builds.hub import CHECKPOINT, Hub, open_hub

DIGEST = "sha256:" + "0" * 64


async def nothing(job: Job) -> dict[str, Any]:
    return {}


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def add(hub: Hub, name: str, data: bytes, *, replace: bool = False) -> str:
    with hub.store.staging() as folder:
        (folder / "upload").write_bytes(data)
        model, outcome = await hub.models.add(name, folder / "upload", digest=digest_of(data), replace=replace)
    assert model.path.read_bytes() == data
    return outcome


def test_models_are_added_once_and_conflicts_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            assert await add(hub, "net", b"inn one") == "created"
            assert hub.registry.get("net").description["feasible"]["params"] == {"min": 1_000, "max": 100_000}
            assert await add(hub, "net", b"inn one") == "unchanged"
            with pytest.raises(NameConflictError) as caught:
                await add(hub, "net", b"inn two")
            assert caught.value.fields["existing"] == digest_of(b"inn one")
            assert await add(hub, "net", b"inn two", replace=True) == "replaced"
            assert hub.registry.get("net").digest == digest_of(b"inn two")
            assert hub.stray_files() == []

    asyncio.run(scenario())


def test_invalid_checkpoint_is_not_registered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            with pytest.raises(CoreError) as caught:
                await add(hub, "net", b"no checkpoint")
            assert caught.value.code == "invalid-checkpoint"
            with pytest.raises(InvalidRequestError):
                await add(hub, "../net", b"inn one")
            with pytest.raises(UnknownModelError):
                hub.registry.get("net")
            assert hub.stray_files() == []

    asyncio.run(scenario())


def test_file_is_imported_under_its_own_name_and_stays(tmp_path: Path) -> None:
    async def scenario() -> None:
        source = tmp_path / "network.inn"
        source.write_bytes(b"inn file")
        async with open_hub(tmp_path / "store") as hub:
            model, outcome = await hub.models.import_file(source, name="network")
            assert (model.name, model.digest, outcome) == ("network", digest_of(b"inn file"), "created")
            assert (await hub.models.import_file(source, name="network"))[1] == "unchanged"
            source.write_bytes(CHECKPOINT)
            assert (await hub.models.import_file(source))[0].name == "fake"  # the name that the checkpoint gives
            assert source.read_bytes() == CHECKPOINT
            small = ModelService(registry=hub.registry, store=hub.store, planner=hub.planner, max_checkpoint_bytes=4)
            with pytest.raises(BodyTooLargeError):
                await small.import_file(source, name="other")
            with pytest.raises(FileNotFoundError):
                await hub.models.import_file(tmp_path / "absent.inn")
            assert hub.stray_files() == []

    asyncio.run(scenario())


def test_file_for_which_the_disk_has_no_room_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        source = tmp_path / "network.inn"
        source.write_bytes(b"inn file")
        async with open_hub(tmp_path / "store", store_options={"disk_free": lambda folder: 100}) as hub:
            with pytest.raises(StoreFullError):
                await hub.models.import_file(source)

    asyncio.run(scenario())


def test_curve_is_measured_once_and_remembered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            assert hub.curves.lookup("fake", params=[5]) is None
            jobs = [await hub.curves.submit("fake", params=[5, 6]) for _ in range(3)]
            for job in jobs:
                assert await job.wait(20)
            curve = jobs[0].result()
            assert [point["params"] for point in curve["points"]] == [5, 6]
            assert hub.curves.lookup("fake", params=[5, 6]) == curve
            assert (await hub.curves.submit("fake", params=[5, 6])).status.cached
            hub.registry.remove("fake")
            with pytest.raises(UnknownModelError):
                hub.curves.lookup("fake")
        async with open_hub(tmp_path) as hub:
            assert hub.curves.lookup("fake", params=[5, 6]) is None  # went with its checkpoint

    asyncio.run(scenario())


def test_too_many_different_curves_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            curves = CurveService(
                catalogue=hub.catalogue, registry=hub.registry, builders=hub.builders, board=hub.board, queue_limit=1
            )
            first = await curves.submit("fake", params=[1])
            second = await curves.submit("fake", params=[1])
            with pytest.raises(QueueFullError):
                await curves.submit("fake", params=[2])
            assert await first.wait(20)
            assert second is first
            assert len(hub.board) == 1

    asyncio.run(scenario())


REQUESTS = st.builds(
    ExportRequest,
    model=st.just("net"),
    unit=st.sampled_from(["params", "macs", "bytes"]),
    value=st.integers(1, 20),
    quality=st.sampled_from(["refined", "instant"]),
    multiple_of=st.integers(1, 3),
)


@given(first=REQUESTS, second=REQUESTS)
def test_keys_are_equal_exactly_for_equal_requests(first: ExportRequest, second: ExportRequest) -> None:
    assert (export_key(DIGEST, first) == export_key(DIGEST, second)) == (first == second)
    assert export_key(DIGEST, first) != export_key("sha256:" + "1" * 64, first)


def test_curve_keys_tell_requests_apart() -> None:
    keys = {
        curve_key(DIGEST, None, "refined"),
        curve_key(DIGEST, [], "refined"),
        curve_key(DIGEST, [1, 23], "refined"),
        curve_key(DIGEST, [12, 3], "refined"),
        curve_key(DIGEST, [1, 23], "instant"),
    }
    assert len(keys) == 5


def test_upkeep_writes_uses_and_forgets_jobs(tmp_path: Path) -> None:
    async def scenario() -> None:
        now = 100.0
        catalogue = SqliteCatalogue(tmp_path / "catalogue.sqlite", clock=lambda: now)
        board = JobBoard(kept_seconds=10.0, clock=lambda: now)
        catalogue.artifact_added(DIGEST, 7)
        board.join(DIGEST, "export", "net", nothing)
        await asyncio.sleep(0)
        assert len(board) == 1
        now = 200.0
        catalogue.artifact_used(DIGEST)
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await run_maintenance(catalogue, board, sleep=sleep)
        assert pauses == [UPKEEP_SECONDS] * 2
        assert catalogue.known_artifacts() == [(DIGEST, 7, 200.0)]
        assert len(board) == 0
        catalogue.close()

    asyncio.run(scenario())
