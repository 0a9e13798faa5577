"""Jobs and their board: watched, waited for, cancelled, forgotten."""

from __future__ import annotations

import asyncio

import pytest

from service.builds.board import JobBoard
from service.builds.job import Job
from service.ground.errors import BuilderFailedError, JobCancelledError, StoreFullError, UnknownJobError


def test_wait_ends_with_the_job_or_the_time() -> None:
    async def scenario() -> None:
        job = Job("export", "net")
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
        job = Job("export", "net")
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
        job = Job("export", "net")
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
        job = Job("export", "net")
        left: list[bool] = []
        job.attach(lambda: left.append(True))
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
        ours, other = Job("export", "net"), Job("export", "net")
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


def test_board_forgets_old_and_surplus_finished_jobs_only() -> None:
    async def scenario() -> None:
        now = 0.0
        board = JobBoard(kept=3, kept_seconds=100.0, clock=lambda: now)
        unfinished = board.create("export", "net")
        finished = [board.create("export", "net") for _ in range(5)]
        for job in finished:
            job.succeed({})
        board.expire()
        assert board.list() == [unfinished, *finished[2:]]
        with pytest.raises(UnknownJobError):
            board.get(finished[0].id)
        now = 101.0
        with pytest.raises(UnknownJobError):
            board.get(finished[4].id)
        board.expire()
        assert board.list() == [unfinished]
        assert board.get(unfinished.id) is unfinished

    asyncio.run(scenario())


@pytest.mark.parametrize("job_id", ["", "absent", "../../etc/passwd", "x" * 100_000])
def test_unknown_job_is_an_error_of_its_own(job_id: str) -> None:
    with pytest.raises(UnknownJobError) as caught:
        JobBoard().get(job_id)
    assert len(str(caught.value)) < 400
