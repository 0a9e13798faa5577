"""Exports: one build however many ask, artifacts that outlive the hub, jobs that are cancelled."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from service.builds.job import Job
from service.contract.export_request import ExportRequest
from service.ground.errors import JobCancelledError, StoreFullError, UnknownJobError
from service.ground.metrics import REGISTRY
from service.store.interface import Lease
from tests.service.builds import fake_builder
from tests.service.builds.hub import CHECKPOINT, Hub, job_of, open_hub, reach, request


def test_export_makes_an_artifact_and_the_next_one_is_cached(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            assert hub.exports.lookup(request(5_000)) is None
            export = await hub.exports.submit(request(5_000))
            job = job_of(export)
            assert job.status.state == "queued"
            assert await export.wait(20)
            manifest = export.result()
            assert job.result() == manifest
            params = {"digest": hub.model.digest, "quality": "refined", "multiple_of": 1}
            expected = fake_builder.content(fake_builder.build_key(params, 5_000), 5_000)
            with hub.store.lease(manifest["digest"]) as lease:
                assert lease.path.read_bytes() == expected
            assert not job.status.cached
            assert manifest["feasible"] == {"min": fake_builder.MINIMUM, "max": fake_builder.MAXIMUM}
            assert hub.exports.lookup(request(5_000)) == manifest
            again = await hub.exports.submit(request(5_000))
            assert (again.is_finished, again.job, again.result()) == (True, None, manifest)
            assert len(hub.builds()) == 1
            assert hub.catalogue.manifest_of(manifest["digest"]) is not None
            assert hub.counted.labels("inn_exports_total", "result") == {"done": 1}
            stages = hub.counted.labels("inn_export_duration_seconds_count", "stage")
            assert stages == {"queue": 1, "discretize": 1, "store": 1, "total": 1}
            assert (hub.counted("inn_cache_misses_total"), hub.counted("inn_cache_hits_total")) == (1, 2)
            assert REGISTRY.get_sample_value("inn_exports_pending") == 0
            assert hub.stray_files() == []

    asyncio.run(scenario())


def test_64_identical_requests_make_one_build(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path, processes=2) as hub:
            jobs = await asyncio.gather(*(hub.exports.submit(request(5_000)) for _ in range(64)))
            assert len({job_of(job).id for job in jobs}) == 1
            assert REGISTRY.get_sample_value("inn_exports_pending") == 1
            assert all(await asyncio.gather(*(job.wait(30) for job in jobs)))
            assert len({job.result()["digest"] for job in jobs}) == 1
            assert len(hub.builds()) == 1
            assert (hub.counted("inn_cache_misses_total"), hub.counted("inn_exports_joined_total")) == (1, 63)

    asyncio.run(scenario())


def test_targets_that_end_in_one_plan_share_a_build(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path, processes=2) as hub:
            jobs = [await hub.exports.submit(request(value)) for value in range(5_000, 5_010)]
            for job in jobs:
                await job.wait(30)
            assert [job.result()["budget"]["value"] for job in jobs] == list(range(5_000, 5_010))
            assert len({job.result()["digest"] for job in jobs}) == 1
            assert len(hub.builds()) == 1
            later = await hub.export(5_050)
            assert later["budget"] == {"unit": "params", "value": 5_050}
            assert len(hub.builds()) == 1

    asyncio.run(scenario())


def test_one_checkpoint_under_two_names_is_built_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            model = hub.model
            with hub.store.staging() as folder:
                (folder / "copy.inn").write_bytes(CHECKPOINT)
                hub.registry.add("alias", folder / "copy.inn", digest=model.digest, description={})
            first = await hub.export(5_000)
            alias = hub.exports.lookup(ExportRequest("alias", "params", 5_000))
            assert alias is not None
            assert (first["model"], alias["model"]) == ("fake", "alias")
            assert alias["digest"] == first["digest"]

    asyncio.run(scenario())


def test_restart_keeps_models_and_artifacts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            manifest = await hub.export(5_000)
        async with open_hub(tmp_path) as hub:
            assert hub.exports.lookup(request(5_000)) == manifest
            with hub.store.lease(manifest["digest"]) as lease:
                assert lease.size_bytes == 5_000
            assert await hub.export(5_050) == {**manifest, "budget": {"unit": "params", "value": 5_050}}
            assert len(hub.builds()) == 1

    asyncio.run(scenario())


def test_a_job_outlives_the_hub_that_ran_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            job = job_of(export := await hub.exports.submit(request(5_000)))
            assert await export.wait(20)
            curve = await hub.curves.submit("fake", params=[5])
            assert await curve.wait(20)
            cut = job_of(await hub.exports.submit(request(fake_builder.HANG)))
        async with open_hub(tmp_path) as hub:
            found = hub.board.get(job.id)
            assert (found.status.state, found.status.kind, found.status.cached) == ("done", "export", True)
            assert found.result() == job.result()
            assert found.status.finished == pytest.approx(job.status.finished, abs=20)
            again = hub.board.get(curve.id)
            assert (again.status.kind, again.status.model, again.result()) == ("curve", "fake", curve.result())
            with pytest.raises(UnknownJobError):
                hub.board.get(cut.id)  # it was not finished
            hub.store.make_room(hub.store.capacity_bytes)
            with pytest.raises(UnknownJobError):
                hub.board.get(job.id)  # its artifact was evicted

    asyncio.run(scenario())


def test_a_full_store_is_tried_again_when_somebody_gives_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def give() -> int:
            given = len(leases)
            while leases:
                leases.pop().release()
            return given

        leases: list[Lease] = []
        async with open_hub(tmp_path, capacity_bytes=12_000, make_room=give) as hub:
            leases.append(hub.store.lease((await hub.export(8_000))["digest"]))
            assert (await hub.export(6_000))["params"] == 6_000
            leases.append(hub.store.lease((await hub.export(6_000))["digest"]))
            with hub.store.lease((await hub.export(5_000))["digest"]), pytest.raises(StoreFullError):
                await hub.export(9_000)
            assert leases == []

    asyncio.run(scenario())


def test_evicted_artifact_is_built_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path, capacity_bytes=12_000) as hub:
            first = await hub.export(5_000)
            await hub.export(8_000)
            assert first["digest"] not in hub.store
            assert hub.exports.lookup(request(5_000)) is None
            assert (await hub.export(5_000))["digest"] == first["digest"]
            assert [line.split()[1] for line in hub.builds()] == ["5000", "8000", "5000"]

    asyncio.run(scenario())


def test_cancelled_job_leaves_the_build_to_the_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            hub.hold()
            first, second = await hub.exports.submit(request(5_000)), await hub.exports.submit(request(5_000))
            await reach(first, "discretize")
            first.cancel("the first left")
            assert not second.is_finished
            hub.release()
            assert await second.wait(20)
            assert job_of(second).status.state == "done"
            assert len(hub.builds()) == 1

    asyncio.run(scenario())


def test_cancelling_the_last_job_stops_the_build(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            hub.hold()
            jobs = [await hub.exports.submit(request(value)) for value in (5_000, 5_001)]
            for job in jobs:
                await reach(job, "discretize")
            builder = int(hub.builds()[0].split()[0])
            jobs[0].cancel("the first left")
            assert job_of(jobs[1]).status.state == "running"
            jobs[1].cancel("the last left")
            for job in jobs:
                assert job_of(job).status.state == "cancelled"
                with pytest.raises(JobCancelledError):
                    job.result()
            while hub.stray_files():
                await asyncio.sleep(0.01)
            with pytest.raises(ProcessLookupError):
                os.kill(builder, 0)
            assert hub.exports.pending == 0
            hub.release()
            assert (await hub.export(5_000))["params"] == 5_000
            assert hub.counted.labels("inn_exports_total", "result") == {"cancelled": 1, "done": 1}

    asyncio.run(scenario())


def test_cancelled_job_in_the_queue_never_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            hub.hold()
            running = await hub.exports.submit(request(5_000))
            await reach(running, "discretize")
            waiting = await hub.exports.submit(request(6_000))
            await reach(waiting, "queued")
            assert job_of(waiting).status.state == "queued"
            waiting.cancel("no longer wanted")
            hub.release()
            await running.wait(20)
            await hub.export(7_000)
            assert [line.split()[1] for line in hub.builds()] == ["5000", "7000"]

    asyncio.run(scenario())


def test_cached_export_is_answered_while_a_build_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            manifest = await hub.export(5_000)
            hub.hold()
            running = await hub.exports.submit(request(6_000))
            await reach(running, "discretize")
            assert hub.exports.lookup(request(5_000)) == manifest
            assert (await hub.export(5_050))["digest"] == manifest["digest"]  # a new plan, but no new build
            assert not running.is_finished
            hub.release()
            await running.wait(20)

    asyncio.run(scenario())


def test_closing_the_hub_cancels_its_jobs(tmp_path: Path) -> None:
    async def scenario() -> Job:
        async with open_hub(tmp_path) as hub:
            hub.hold()
            export = await hub.exports.submit(request(5_000))
            await reach(export, "discretize")
            job, pids = job_of(export), hub.builders.pids
        assert job.status.state == "cancelled"
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        return job

    job = asyncio.run(scenario())
    assert isinstance(job.status.error, JobCancelledError)


def test_progress_never_goes_back_and_ends_at_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            job = job_of(await hub.exports.submit(request(fake_builder.CRASH_ONCE)))
            seen = [status async for status in job.events() if status is not None]
            progress = [status.progress for status in seen]
            assert progress == sorted(progress)
            assert (seen[0].state, seen[-1].state, progress[-1]) == ("queued", "done", 1.0)
            assert seen[-1].result == job.result()

    asyncio.run(scenario())


def test_builds_run_side_by_side_when_there_are_more_builders(tmp_path: Path) -> None:
    async def scenario(hub: Hub) -> None:
        hub.hold()
        jobs = [await hub.exports.submit(request(value)) for value in (5_000, 6_000)]
        for job in jobs:
            await reach(job, "discretize")
        hub.release()
        for job in jobs:
            assert await job.wait(20)
        assert len({line.split()[0] for line in hub.builds()}) == 2

    async def main() -> None:
        async with open_hub(tmp_path, processes=2) as hub:
            await scenario(hub)

    asyncio.run(main())
