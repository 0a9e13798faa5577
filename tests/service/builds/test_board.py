"""The board: one job for equal keys, cancelled when nobody waits; finished jobs are forgotten, or found again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.builds.board import JobBoard
from service.builds.job import Job, job_id_of
from service.ground.errors import BuilderFailedError, JobCancelledError, UnknownJobError

Work = Callable[[Job], Coroutine[Any, Any, dict[str, Any]]]


def key_of(name: str) -> str:
    return f"sha256:{name * 64}"


def counted(runs: list[str], release: asyncio.Event) -> Work:
    async def work(job: Job) -> dict[str, Any]:
        runs.append(job.id[0])
        await release.wait()
        return {"runs": len(runs)}

    return work


async def done(job: Job) -> dict[str, Any]:
    return {}


def test_equal_keys_share_a_job_and_other_keys_do_not() -> None:
    async def scenario() -> None:
        board = JobBoard()
        runs: list[str] = []
        release = asyncio.Event()
        jobs = [board.join(key_of(name), "export", "net", counted(runs, release)) for name in "aabab"]
        await asyncio.sleep(0)
        assert runs == ["a", "b"]
        assert len({job.id for job in jobs}) == len(board) == len(board.unfinished("export")) == 2
        assert board.unfinished("curve") == []
        release.set()
        assert all([await job.wait(5) for job in jobs])
        assert board.unfinished("export") == []

    asyncio.run(scenario())


def test_progress_never_goes_back_and_who_comes_late_sees_the_present_state() -> None:
    async def scenario() -> None:
        board = JobBoard()
        release = asyncio.Event()

        async def work(job: Job) -> dict[str, Any]:
            job.advance("discretize", 0.5, running=True)
            job.advance("start", 0.0, running=True)
            await release.wait()
            return {}

        early = board.join(key_of("a"), "export", "net", work)
        assert (early.status.stage, early.status.progress, early.status.state) == ("queued", 0.0, "queued")
        await asyncio.sleep(0)
        late = board.join(key_of("a"), "export", "net", work)
        assert (late.status.stage, late.status.progress, late.status.state) == ("start", 0.5, "running")
        release.set()
        assert await late.wait(5)

    asyncio.run(scenario())


def test_work_goes_on_while_one_waits_and_stops_with_the_last() -> None:
    async def scenario() -> None:
        board = JobBoard()
        runs: list[str] = []
        work = counted(runs, asyncio.Event())
        job = board.join(key_of("a"), "export", "net", work)
        assert board.join(key_of("a"), "export", "net", work) is job
        await asyncio.sleep(0)
        assert not job.leave()
        await asyncio.sleep(0.01)
        assert board.running(key_of("a")) is job
        assert job.leave()
        assert not job.leave()
        assert board.running(key_of("a")) is None
        with pytest.raises(JobCancelledError):
            job.result()
        again = board.join(key_of("a"), "export", "net", work)
        assert again is not job
        assert board.get(job.id) is again
        await asyncio.sleep(0.01)
        assert runs == ["a", "a"]
        await board.close()
        assert again.status.state == "cancelled"

    asyncio.run(scenario())


def test_a_job_that_is_given_up_at_once_never_runs() -> None:
    async def scenario() -> None:
        board = JobBoard()
        runs: list[str] = []
        board.join(key_of("a"), "export", "net", counted(runs, asyncio.Event())).leave()
        await board.close()
        assert runs == []
        assert board.unfinished("export") == []

    asyncio.run(scenario())


def test_all_who_wait_get_the_error_of_the_work() -> None:
    async def scenario() -> None:
        board = JobBoard()

        async def work(job: Job) -> dict[str, Any]:
            await asyncio.sleep(0)
            raise ValueError("no")

        jobs = [board.join(key_of("a"), "export", "net", work) for _ in range(3)]
        for job in jobs:
            assert await job.wait(5)
            with pytest.raises(BuilderFailedError):
                job.result()

    asyncio.run(scenario())


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["join", "leave", "finish"]), st.sampled_from("ab"), st.integers(0, 5)), max_size=30
    )
)
@settings(max_examples=100, deadline=None)
def test_at_most_one_work_of_a_key_is_wanted_at_any_time(steps: list[tuple[str, str, int]]) -> None:
    async def scenario() -> None:
        board = JobBoard()
        release = {name: asyncio.Event() for name in "ab"}
        wanted = dict.fromkeys("ab", 0)
        jobs: list[Job] = []

        async def work(job: Job) -> dict[str, Any]:
            name = job.id[0]
            wanted[name] += 1
            assert wanted[name] == 1
            try:
                await release[name].wait()
            finally:
                wanted[name] -= 1
            return {}

        for action, name, number in steps:
            if action == "join":
                jobs.append(board.join(key_of(name), "export", "net", work))
            elif action == "leave" and jobs:
                jobs.pop(number % len(jobs)).leave()
            elif action == "finish":
                release[name].set()
                release[name] = asyncio.Event()
            for _ in range(5):
                await asyncio.sleep(0)
        await board.close()
        assert all(job.status.state in ("done", "cancelled") for job in jobs)
        assert board.unfinished("export") == []

    asyncio.run(scenario())


def test_board_forgets_old_and_surplus_finished_jobs_only() -> None:
    async def scenario() -> None:
        now = 0.0
        board = JobBoard(kept=3, kept_seconds=100.0, clock=lambda: now)
        unfinished = board.join(key_of("0"), "export", "net", counted([], asyncio.Event()))
        finished = [board.join(key_of(name), "export", "net", done) for name in "12345"]
        for job in finished:
            assert await job.wait(5)
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
        await board.close()

    asyncio.run(scenario())


def test_a_job_that_is_not_kept_is_recalled_by_its_result() -> None:
    async def scenario() -> None:
        known = Job.of_result(job_id_of(key_of("a")), "export", "net", {"params": 5}, finished=7.0)
        board = JobBoard(recall={known.id: known}.get)
        assert board.get(known.id) is known
        assert (known.status.state, known.status.cached, known.status.finished) == ("done", True, 7.0)
        with pytest.raises(UnknownJobError):
            board.get(job_id_of(key_of("b")))
        assert len(board) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("job_id", ["", "absent", "../../etc/passwd", "x" * 100_000])
def test_unknown_job_is_an_error_of_its_own(job_id: str) -> None:
    with pytest.raises(UnknownJobError) as caught:
        JobBoard().get(job_id)
    assert len(str(caught.value)) < 400
