"""A job: one build (or curve), shared by all who asked for it, to be watched, waited for and given up.

A job has the id of its key, which is a digest of everything that decides the result. So equal requests share one job,
and the id of a finished one still means something when the hub that ran it is long gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from service.ground.errors import BuilderFailedError, JobCancelledError, ServiceError

Kind = Literal["export", "curve"]
State = Literal["queued", "running", "done", "failed", "cancelled"]
Result = dict[str, Any]

_PREFIX = "sha256:"


def job_id_of(key: str) -> str:
    """The id of the job of a key: the digest without its prefix."""
    return key.removeprefix(_PREFIX)


def key_of_job(job_id: str) -> str:
    """The key that a job of this id has."""
    return _PREFIX + job_id


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment.

    Attributes:
        id: names the job under `/jobs/`.
        kind: what it makes: `export` or `curve`.
        model: name of the model it is about.
        state: queued, running, done, failed or cancelled.
        stage: what is being done, in a word or two.
        progress: fraction done, 0 to 1; never goes back.
        created, finished: seconds since the epoch.
        result: when done.
        error: when failed or cancelled.
        cached: whether the result was there without a build of its own.
    """

    id: str
    kind: Kind
    model: str
    state: State
    stage: str
    progress: float
    created: float
    finished: float | None = None
    result: Result | None = None
    error: ServiceError | None = None
    cached: bool = False


class Job:
    """A piece of work that goes on while anybody waits for it. Belongs to one event loop.

    Args:
        job_id: see `job_id_of`.
        kind: `export` or `curve`.
        model: name of the model it is about.
        clock: seconds since the epoch.
    """

    def __init__(self, job_id: str, kind: Kind, model: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._status = JobStatus(job_id, kind, model, "queued", "queued", 0.0, clock())
        self._changed = asyncio.Event()
        self._waiters = 0
        self.requests: dict[str, Result] = {}
        """Requests that led to it, by their keys, with the members of the result that are each one's own."""
        self._stop: Callable[[], object] = lambda: None

    @classmethod
    def of_result(cls, job_id: str, kind: Kind, model: str, result: Result, *, finished: float) -> Job:
        """A job that was done before."""
        job = cls(job_id, kind, model, clock=lambda: finished)
        job.succeed(result, cached=True)
        return job

    @property
    def id(self) -> str:
        """Names the job."""
        return self._status.id

    @property
    def status(self) -> JobStatus:
        """The job now; a value that does not change."""
        return self._status

    @property
    def is_finished(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self._status.finished is not None

    def result(self) -> Result:
        """The result of a job that is done.

        Raises:
            ServiceError: the error it failed with, or that it was cancelled.
            RuntimeError: it is not finished.
        """
        if self._status.error is not None:
            raise self._status.error
        if self._status.result is None:
            raise RuntimeError(f"job {self.id} is not finished")
        return self._status.result

    async def wait(self, timeout_seconds: float | None = None) -> bool:
        """Waits until it is finished, at most for some time.

        Returns:
            Whether it is finished. Cancelling the wait leaves the job alone.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self.is_finished:
                    await self._changed.wait()
        except TimeoutError:
            return self.is_finished
        return True

    async def events(self, heartbeat_seconds: float = 15.0) -> AsyncIterator[JobStatus | None]:
        """The status now and at every change, the finished one last; None when nothing changed for a while.

        A reader that is slow misses states in between, never the last.
        """
        seen: JobStatus | None = None
        while True:
            changed = self._changed
            if self._status is not seen:
                seen = self._status
                yield seen
                if seen.finished is not None:
                    return
                continue
            try:
                async with asyncio.timeout(heartbeat_seconds):
                    await changed.wait()
            except TimeoutError:
                yield None

    def join(self) -> None:
        """One more waits for it."""
        self._waiters += 1

    def leave(self, reason: str = "it was cancelled") -> bool:
        """One that waited gives it up; the last one to do so cancels it and stops its work.

        Returns:
            Whether the job ended by this.
        """
        self._waiters -= 1
        return self._waiters <= 0 and self.cancel(reason)

    def cancel(self, reason: str = "it was cancelled") -> bool:
        """Ends it for all who wait, and stops its work.

        Returns:
            Whether it was unfinished until now.
        """
        if self.is_finished:
            return False
        self._finish("cancelled", error=JobCancelledError(self.id, reason))
        self._stop()
        return True

    def on_cancel(self, stop: Callable[[], object]) -> None:
        """Sets what stops the work of a cancelled job."""
        self._stop = stop

    def advance(self, stage: str, fraction: float, *, running: bool) -> None:
        """Notes progress, which never goes back; ignored once finished."""
        if not self.is_finished:
            progress = max(self._status.progress, fraction)
            self._set(state="running" if running else "queued", stage=stage, progress=progress)

    def succeed(self, result: Result, *, cached: bool = False) -> None:
        """Finishes it with a result; ignored once finished."""
        if not self.is_finished:
            self._finish("done", result=result, progress=1.0, cached=cached)

    def fail(self, error: BaseException) -> None:
        """Finishes it with an error; one that is not ours shows nothing of itself. Ignored once finished."""
        if not self.is_finished:
            self._finish("failed", error=error if isinstance(error, ServiceError) else BuilderFailedError())

    def _finish(self, state: State, **changes: Any) -> None:
        self._set(state=state, stage=state, finished=self._clock(), **changes)

    def _set(self, **changes: Any) -> None:
        self._status = replace(self._status, **changes)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
