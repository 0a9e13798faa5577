"""Curves: size against agreement of a model, measured by a builder as a job and kept in the catalogue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from service.builds.board import JobBoard
from service.builds.job import Job, job_id_of
from service.builds.pool import BuilderPool
from service.contract.export_request import curve_key
from service.ground.errors import QueueFullError, UnknownModelError
from service.store.interface import Catalogue
from service.store.models import Model, ModelRegistry

Curve = dict[str, Any]

# A curve takes about a minute.
RETRY_AFTER_SECONDS = 60


class CurveService:
    """Answers requests for curves. Belongs to one event loop.

    Args:
        catalogue: remembers curves.
        registry: the models.
        builders: processes that measure.
        board: where jobs are listed and run.
        timeout_seconds: how long one curve may take.
        queue_limit: different curves that may wait or be measured at one time.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        registry: ModelRegistry,
        builders: BuilderPool,
        board: JobBoard,
        timeout_seconds: float = 1800.0,
        queue_limit: int = 16,
    ) -> None:
        self._catalogue = catalogue
        self._registry = registry
        self._builders = builders
        self._board = board
        self._timeout_seconds = timeout_seconds
        self._queue_limit = queue_limit

    def lookup(self, name: str, *, params: Sequence[int] | None = None, quality: str = "refined") -> Curve | None:
        """A curve that was measured before.

        Raises:
            UnknownModelError: there is no such model.
        """
        return self._catalogue.curve(curve_key(self._registry.get(name).digest, params, quality))

    async def submit(self, name: str, *, params: Sequence[int] | None = None, quality: str = "refined") -> Job:
        """A job for a curve; equal requests share one measurement.

        Args:
            name: of the model.
            params: parameter counts to measure at; the builder's choice when not given.
            quality: of the artifacts that the curve is about.

        Raises:
            UnknownModelError: there is no such model.
            QueueFullError: too many different curves wait or are measured.
        """
        model = self._registry.get(name)
        key = curve_key(model.digest, params, quality)
        known = self.lookup(name, params=params, quality=quality)
        if known is not None:
            return Job.of_result(job_id_of(key), "curve", name, known, finished=time.time())
        pending = len(self._board.unfinished("curve"))
        if self._board.running(key) is None and pending >= self._queue_limit:
            raise QueueFullError(pending=pending, limit=self._queue_limit, retry_after_seconds=RETRY_AFTER_SECONDS)
        return self._board.join(key, "curve", name, lambda job: self._measure(job, key, model, params, quality))

    async def _measure(self, job: Job, key: str, model: Model, params: Sequence[int] | None, quality: str) -> Curve:
        try:
            async with self._builders.borrow() as builder:
                job.advance("start", 0.0, running=True)
                curve: Curve = await builder.call(
                    "curve",
                    {
                        "checkpoint": str(model.path),
                        "digest": model.digest,
                        "params": None if params is None else list(params),
                        "quality": quality,
                    },
                    timeout_seconds=self._timeout_seconds,
                    on_progress=lambda stage, fraction: job.advance(stage, fraction, running=True),
                    attempts=2,
                )
        except Exception:
            if not model.path.exists():  # the model was removed in the meantime
                raise UnknownModelError(model.name, [other.name for other in self._registry.list()]) from None
            raise
        await asyncio.to_thread(self._catalogue.put_curve, key, model.digest, curve)
        return curve
