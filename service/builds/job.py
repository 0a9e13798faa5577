"""A job: one request for a long piece of work, to be watched, waited for and cancelled."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal

from service.ground.errors import BuilderFailedError, JobCancelledError, ServiceError

State = Literal["queued", "running", "done", "failed", "cancelled"]


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
    kind: str
    model: str
    state: State
    stage: str
    progress: float
    created: float
    finished: float | None
    result: dict[str, Any] | None
    error: ServiceError | None
    cached: bool


class Job:
    """One request's view of a piece of work that others may share. Belongs to one event loop.

    Args:
        kind: `export` or `curve`.
        model: name of the model it is about.
        clock: seconds since the epoch.
    """

    def __init__(self, kind: str, model: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._status = JobStatus(
            uuid.uuid4().hex, kind, model, "queued", "queued", 0.0, clock(), None, None, None, cached=False
        )
        self._changed = asyncio.Event()
        self._leave: Callable[[], None] = lambda: None

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

    def result(self) -> dict[str, Any]:
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

    def cancel(self, reason: str = "it was cancelled") -> bool:
        """Gives the job up; the work itself goes on when another job needs it.

        Returns:
            Whether it was unfinished until now.
        """
        if self.is_finished:
            return False
        self._finish("cancelled", error=JobCancelledError(self.id, reason))
        self._leave()
        return True

    def attach(self, leave: Callable[[], None]) -> None:
        """Sets what a cancelled job does to leave the work it shares."""
        self._leave = leave

    def advance(self, stage: str, fraction: float, *, running: bool) -> None:
        """Notes progress; ignored once finished."""
        if not self.is_finished:
            self._set(state="running" if running else "queued", stage=stage, progress=fraction)

    def succeed(self, result: dict[str, Any], *, cached: bool = False) -> None:
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
        self._status = JobStatus(**{**self._status.__dict__, **changes})
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
