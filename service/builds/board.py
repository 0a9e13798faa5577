"""The board of jobs, and where they run: all unfinished ones, at most one for a key, and finished ones for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from service.builds.job import Job, Kind, Result, job_id_of
from service.ground.errors import UnknownJobError

Work = Callable[[Job], Coroutine[Any, Any, Result]]


class JobBoard:
    """Jobs by id. Belongs to one event loop.

    Args:
        kept: finished jobs kept at most.
        kept_seconds: how long a finished job is kept.
        recall: finds a job that was done before and is no longer kept, by its id.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        kept: int = 1000,
        kept_seconds: float = 3600.0,
        recall: Callable[[str], Job | None] = lambda job_id: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kept = kept
        self._kept_seconds = kept_seconds
        self._recall = recall
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[asyncio.Task[None], Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def unfinished(self, kind: Kind) -> list[Job]:
        """The jobs of a kind that wait or run now."""
        return [job for job in self._tasks.values() if not job.is_finished and job.status.kind == kind]

    def running(self, key: str) -> Job | None:
        """The unfinished job of a key."""
        job = self._jobs.get(job_id_of(key))
        return None if job is None or job.is_finished else job

    def join(self, key: str, kind: Kind, model: str, work: Work) -> Job:
        """The unfinished job of a key with one more waiter; begun with `work` when there is none."""
        job = self.running(key)
        if job is None:
            self.expire()
            job = Job(job_id_of(key), kind, model, clock=self._clock)
            self._jobs.pop(job.id, None)  # a finished one of this key makes way, to the end of the list
            self._jobs[job.id] = job
            task = asyncio.create_task(_run(job, work), name=f"job {job.id[:12]}")
            job.on_cancel(task.cancel)
            self._tasks[task] = job
            task.add_done_callback(self._tasks.pop)
        job.join()
        return job

    def get(self, job_id: str) -> Job:
        """The job of this id; one that an earlier hub has done is found by its result.

        Raises:
            UnknownJobError: there is none, or neither it nor its result is kept any more.
        """
        job = self._jobs.get(job_id)
        if job is None or self._is_stale(job):
            job = self._recall(job_id)
        if job is None:
            raise UnknownJobError(job_id)
        return job

    def list(self) -> list[Job]:
        """All jobs, oldest first."""
        return list(self._jobs.values())

    def expire(self) -> None:
        """Forgets finished jobs that are too old or too many, oldest first."""
        finished = [job for job in self._jobs.values() if job.is_finished]
        excess = len(finished) - self._kept
        for position, job in enumerate(finished):
            if position < excess or self._is_stale(job):
                del self._jobs[job.id]

    async def close(self) -> None:
        """Cancels what waits or runs, and waits for its end."""
        tasks = list(self._tasks)
        for task, job in list(self._tasks.items()):
            job.cancel("the hub is stopping")
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_stale(self, job: Job) -> bool:
        finished = job.status.finished
        return finished is not None and self._clock() - finished > self._kept_seconds


async def _run(job: Job, work: Work) -> None:
    try:
        job.succeed(await work(job))
    except Exception as error:
        job.fail(error)
