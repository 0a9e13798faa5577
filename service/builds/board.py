"""The board of jobs: all unfinished ones, and finished ones for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.builds.job import Job
from service.ground.errors import UnknownJobError


class JobBoard:
    """Jobs by id. Belongs to one event loop.

    Args:
        kept: finished jobs kept at most.
        kept_seconds: how long a finished job is kept.
        clock: seconds since the epoch.
    """

    def __init__(
        self, *, kept: int = 1000, kept_seconds: float = 3600.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._kept = kept
        self._kept_seconds = kept_seconds
        self._clock = clock
        self._jobs: dict[str, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def create(self, kind: str, model: str) -> Job:
        """A new queued job on the board."""
        self.expire()
        job = Job(kind, model, clock=self._clock)
        self._jobs[job.id] = job
        return job

    def get(self, job_id: str) -> Job:
        """The job of this id.

        Raises:
            UnknownJobError: there is none, or it was finished too long ago.
        """
        job = self._jobs.get(job_id)
        if job is None or self._is_stale(job):
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

    def _is_stale(self, job: Job) -> bool:
        finished = job.status.finished
        return finished is not None and self._clock() - finished > self._kept_seconds
