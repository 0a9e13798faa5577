"""Jobs: watched, waited for, cancelled."""

from __future__ import annotations

import asyncio

import pytest

from service.builds.job import Job
from service.ground.errors import BuilderFailedError, JobCancelledError, StoreFullError


def test_wait_ends_with_the_job_or_the_time() -> None:
    async def scenario() -> None:
        job = Job("0" * 64, "export", "net")
        assert not await job.wait(0.0)
        assert not await job.wait(0.01)
        with pytest.raises(RuntimeError):
            job.result()
        asyncio.get_running_loop().call_soon(job.succeed, {"params": 5})
        assert await job.wait(5)
        assert await job.wait(0.0)
        assert job.result() == {"params": 5}

    asyncio.run(scenario())


def test_events_show_every_state_to_a_quick_reader_and_the_last_to_a_slow_one() -> None:
    async def scenario() -> None:
        job = Job("0" * 64, "export", "net")
        quick: list[tuple[str, float]] = []

        async def read() -> None:
            async for status in job.events():
                if status is not None:
                    quick.append((status.stage, status.progress))

        reader = asyncio.create_task(read())
        slow = job.events()
        await anext(slow)
        for stage, fraction in (("plan", 0.0), ("discretize", 0.5), ("assemble", 0.9)):
            await asyncio.sleep(0)
            job.advance(stage, fraction, running=True)
        await asyncio.sleep(0)
        job.succeed({})
        await reader
        assert quick == [("queued", 0.0), ("plan", 0.0), ("discretize", 0.5), ("assemble", 0.9), ("done", 1.0)]
        rest = [status async for status in slow]
        assert [status.state for status in rest if status is not None] == ["done"]

    asyncio.run(scenario())


def test_events_beat_when_nothing_changes() -> None:
    async def scenario() -> None:
        job = Job("0" * 64, "export", "net")
        events = job.events(heartbeat_seconds=0.01)
        assert await anext(events) is job.status
        assert await anext(events) is None
        job.succeed({})
        assert await anext(events) is job.status
        with pytest.raises(StopAsyncIteration):
            await anext(events)

    asyncio.run(scenario())


def test_finished_job_does_not_change() -> None:
    async def scenario() -> None:
        job = Job("0" * 64, "export", "net")
        left: list[bool] = []
        job.on_cancel(lambda: left.append(True))
        assert job.cancel()
        final = job.status
        job.advance("discretize", 0.5, running=True)
        job.succeed({})
        job.fail(ValueError())
        assert not job.cancel()
        assert job.status is final
        assert left == [True]
        assert final.state == "cancelled"
        with pytest.raises(JobCancelledError):
            job.result()

    asyncio.run(scenario())


def test_failed_job_shows_our_errors_and_hides_others() -> None:
    async def scenario() -> None:
        ours, other = Job("0" * 64, "export", "net"), Job("0" * 64, "export", "net")
        full = StoreFullError(needed_bytes=2, capacity_bytes=1, free_bytes=0)
        ours.fail(full)
        other.fail(ValueError("secret"))
        with pytest.raises(StoreFullError) as caught:
            ours.result()
        assert caught.value is full
        with pytest.raises(BuilderFailedError) as hidden:
            other.result()
        assert "secret" not in str(hidden.value)

    asyncio.run(scenario())
