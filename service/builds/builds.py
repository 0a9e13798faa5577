"""Builds: from a plan to an artifact in the store, on a builder process that may die."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.builds.job import Job
from service.builds.pool import BuilderPool
from service.builds.worker_process import BuilderClient
from service.ground.errors import BuilderDiedError, StoreFullError
from service.ground.metrics import SLOW, counter, histogram
from service.store.interface import ArtifactStore, Catalogue, Manifest

log = logging.getLogger(__name__)

ARTIFACT_FILE = "artifact.onnx"
# A builder that dies in the middle of a build is replaced and the build tried once more.
ATTEMPTS = 2
FIRST_GUESS_SECONDS = 10.0

_ENDED = counter("inn_exports_total", "Builds that ended.", ["result"])
for _result in ("done", "failed", "cancelled"):
    _ENDED.labels(_result)
# Stages are `queue`, those of the manifest's `seconds`, and `store`.
_STAGE_SECONDS = histogram(
    "inn_export_duration_seconds", "Time of a build: each stage, and `total`.", ["stage"], buckets=SLOW
)


@dataclass(frozen=True)
class BuildOrder:
    """What is to be built.

    Attributes:
        build_key: digest of everything that decides the outcome.
        size_bytes: of the artifact, at most.
        params: of the builder's `export` operation, but for the path.
        model: name of the model, for the log.
    """

    build_key: str
    size_bytes: int
    params: dict[str, Any]
    model: str


class BuildService:
    """Runs builds. Belongs to one event loop.

    Args:
        store: where artifacts go.
        catalogue: remembers what a build key led to.
        builders: processes that build.
        timeout_seconds: how long one attempt may take, not counting the wait for a builder.
        make_room: gives up what keeps artifacts from being evicted, when the store is full; returns whether any was.
        monotonic: seconds, for durations.
    """

    def __init__(
        self,
        *,
        store: ArtifactStore,
        catalogue: Catalogue,
        builders: BuilderPool,
        timeout_seconds: float,
        make_room: Callable[[], Awaitable[object]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._builders = builders
        self._timeout_seconds = timeout_seconds
        self._make_room = make_room
        self._monotonic = monotonic
        self._recent_seconds: deque[float] = deque(maxlen=20)

    @property
    def expected_seconds(self) -> float:
        """How long the next of the builders at work is likely to take, from the last builds."""
        recent = self._recent_seconds or [FIRST_GUESS_SECONDS]
        return sum(recent) / len(recent) / len(self._builders)

    async def build(self, order: BuildOrder, job: Job) -> Manifest:
        """Makes the artifact of an order and puts it into the store; cancelling this stops the build.

        Raises:
            CoreError, BuildTimeoutError, BuilderFailedError, StoreFullError: why there is none.
        """
        extra = {"build_key": order.build_key, "model": order.model}
        began = self._monotonic()
        outcome = "failed"
        try:
            manifest = await self._with_room(order, job, began)
            outcome = "done"
        except asyncio.CancelledError:
            outcome = "cancelled"
            log.info("build cancelled", extra=extra)
            raise
        except Exception as error:
            log.warning("build failed", extra={**extra, "code": getattr(error, "code", "internal")})
            raise
        finally:
            _ENDED.labels(outcome).inc()
            _STAGE_SECONDS.labels("total").observe(self._monotonic() - began)
        log.info("build finished", extra={**extra, "digest": manifest["digest"]})
        return manifest

    async def _with_room(self, order: BuildOrder, job: Job, began: float) -> Manifest:
        """Builds; once more when the store was full and somebody gave up artifacts that nobody uses just now."""
        job.advance("queued", 0.0, running=False)
        async with self._builders.borrow() as builder:
            _STAGE_SECONDS.labels("queue").observe(self._monotonic() - began)
            try:
                return await self._run(job, builder, order)
            except StoreFullError:
                if not await self._make_room():
                    raise
            return await self._run(job, builder, order)

    async def _run(self, job: Job, builder: BuilderClient, order: BuildOrder) -> Manifest:
        for attempt in range(ATTEMPTS):
            try:
                return await self._attempt(job, builder, order)
            except BuilderDiedError:
                if attempt == ATTEMPTS - 1:
                    raise
                log.warning("build started again", extra={"build_key": order.build_key, "model": order.model})
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, job: Job, builder: BuilderClient, order: BuildOrder) -> Manifest:
        """One try in a staging folder of its own, which takes away whatever a killed builder leaves."""
        job.advance("start", 0.0, running=True)
        began = self._monotonic()
        with self._store.staging() as folder:
            await asyncio.to_thread(self._store.make_room, order.size_bytes)
            staged = folder / ARTIFACT_FILE
            manifest: Manifest = await builder.call(
                "export",
                {**order.params, "path": str(staged)},
                timeout_seconds=self._timeout_seconds,
                on_progress=lambda stage, fraction: job.advance(stage, fraction, running=True),
            )
            finished = self._monotonic()
            await asyncio.to_thread(self._keep, staged, order.build_key, manifest)
        self._recent_seconds.append(finished - began)
        for stage, seconds in manifest.get("seconds", {}).items():
            _STAGE_SECONDS.labels(stage).observe(float(seconds))
        _STAGE_SECONDS.labels("store").observe(self._monotonic() - finished)
        return manifest

    def _keep(self, staged: Path, build_key: str, manifest: Manifest) -> None:
        self._store.adopt(staged, manifest["digest"])
        self._catalogue.put_build(build_key, manifest)
