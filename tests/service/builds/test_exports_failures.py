"""Exports that fail: builders that die or hang, stores and queues that are full, models that go."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from pathlib import Path

import pytest

from service.contract.export_request import ExportRequest
from service.ground.errors import (
    BuilderFailedError,
    BuildTimeoutError,
    CoreError,
    DigestMismatchError,
    QueueFullError,
    StoreFullError,
    UnknownModelError,
)
from service.store import local
from tests.service.builds import fake_builder
from tests.service.builds.hub import job_of, open_hub, reach, request


def test_builder_killed_in_the_middle_is_replaced_and_the_build_repeated(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            hub.hold()
            job = await hub.exports.submit(request(5_000))
            await reach(job, "discretize")
            first = hub.builds()[0].split()[0]
            os.kill(int(first), signal.SIGKILL)
            while len(hub.builds()) < 2:
                await asyncio.sleep(0.01)
            hub.release()
            assert await job.wait(20)
            assert job_of(job).status.state == "done"
            assert [line.split()[0] == first for line in hub.builds()] == [True, False]
            assert hub.stray_files() == []
            assert hub.counted("inn_builder_restarts_total") == 1
            assert (await hub.export(6_000))["params"] == 6_000

    asyncio.run(scenario())


def test_builder_that_dies_twice_fails_the_build_and_leaves_no_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            with pytest.raises(BuilderFailedError):
                await hub.export(fake_builder.CRASH_ALWAYS)
            assert len(hub.builds()) == 2
            assert hub.stray_files() == []
            assert hub.store.digests() == []
            assert hub.counted.labels("inn_exports_total", "result") == {"failed": 1}
            assert (await hub.export(5_000))["params"] == 5_000

    asyncio.run(scenario())


def test_planner_killed_is_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            await hub.planner.start()
            assert hub.planner.pid is not None
            os.kill(hub.planner.pid, signal.SIGKILL)
            assert (await hub.export(5_000))["params"] == 5_000

    asyncio.run(scenario())


def test_build_that_takes_too_long_is_stopped_and_the_next_succeeds(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path, build_timeout_seconds=2.0) as hub:
            with pytest.raises(BuildTimeoutError):
                await hub.export(fake_builder.HANG)
            assert hub.stray_files() == []
            assert len(hub.builds()) == 1
            assert (await hub.export(5_000))["params"] == 5_000

    asyncio.run(scenario())


def test_errors_keep_their_code_and_tell_nothing_of_the_inside(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            with pytest.raises(CoreError) as remote:
                await hub.export(10)
            assert remote.value.code == "budget-unreachable"
            assert remote.value.fields == {"minimum": 1_000, "maximum": 100_000, "unit": "params"}
            with pytest.raises(BuilderFailedError) as broken:
                await hub.export(fake_builder.BREAK)
            assert "secret" not in str(broken.value)
            with pytest.raises(DigestMismatchError):
                await hub.export(fake_builder.WRONG_DIGEST)
            with pytest.raises(UnknownModelError):
                await hub.exports.submit(ExportRequest("absent", "params", 5_000))
            assert hub.store.digests() == []
            assert hub.stray_files() == []

    asyncio.run(scenario())


def test_failure_is_not_remembered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            for _ in range(2):
                with pytest.raises(BuilderFailedError):
                    await hub.export(fake_builder.BREAK)
            assert len(hub.builds()) == 2

    asyncio.run(scenario())


def test_full_store_refuses_a_build_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path, capacity_bytes=14_000) as hub:
            first, second = await hub.export(5_000), await hub.export(6_000)
            with hub.store.lease(first["digest"]):
                with pytest.raises(StoreFullError) as caught:
                    await hub.export(9_500)
                assert caught.value.fields["needed_bytes"] == 9_500
                assert len(hub.builds()) == 2  # refused before any work
            with pytest.raises(StoreFullError):
                await hub.export(fake_builder.DISK_FULL)

            def full(staged: Path, target: Path) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(local, "publish", full)
            with pytest.raises(StoreFullError):
                await hub.export(1_000)
            monkeypatch.undo()
            assert {first["digest"], second["digest"]} <= set(hub.store.digests())
            assert hub.exports.lookup(request(5_000)) == first
            assert hub.stray_files() == []
            assert (await hub.export(1_000))["params"] == 1_000

    asyncio.run(scenario())


def test_full_queue_refuses_new_work_but_not_joins(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path, queue_limit=2) as hub:
            hub.hold()
            jobs = [await hub.exports.submit(request(value)) for value in (5_000, 6_000)]
            with pytest.raises(QueueFullError) as caught:
                await hub.exports.submit(request(7_000))
            assert caught.value.fields["limit"] == 2
            assert caught.value.fields["retry_after"] >= 1
            jobs.append(await hub.exports.submit(request(6_000)))
            hub.release()
            for job in jobs:
                assert await job.wait(20)
            assert (await hub.export(7_000))["params"] == 7_000

    asyncio.run(scenario())


def test_model_removed_while_its_build_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with open_hub(tmp_path) as hub:
            hub.hold()
            running = await hub.exports.submit(request(5_000))
            await reach(running, "discretize")
            waiting = await hub.exports.submit(request(fake_builder.BREAK))
            await reach(waiting, "queued")
            hub.release()
            hub.registry.remove("fake")
            await waiting.wait(20)
            with pytest.raises(UnknownModelError):
                waiting.result()
            await running.wait(20)
            assert running.result()["digest"] in hub.store

    asyncio.run(scenario())
