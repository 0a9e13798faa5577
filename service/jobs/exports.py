"""Exports: from a request to an artifact in the store, built at most once however many ask at the same time.

Requests for the same thing share a *request flight*, which asks the planner process for a plan. Plans with the same
build key share a *build flight*, which waits for a builder process and adopts what it wrote. So the targets of a
device family that end in one plan cost one build.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.artifacts.catalogue import Catalogue, Manifest
from service.artifacts.registry import Model, ModelRegistry
from service.artifacts.store import ArtifactStore
from service.errors import BuilderDiedError, QueueFullError, UnknownModelError
from service.jobs.board import JobBoard
from service.jobs.client import BuilderClient
from service.jobs.flight import Flight, FlightDeck
from service.jobs.job import Job
from service.jobs.observer import JobObserver, SilentObserver
from service.jobs.pool import BuilderPool
from service.jobs.request import ExportRequest, export_key

log = logging.getLogger(__name__)

# Manifests kept in memory, about 2 KiB each, so that a cached export needs no SQL.
MANIFESTS_IN_MEMORY = 10_000
ATTEMPTS = 2
ARTIFACT_FILE = "artifact.onnx"


@dataclass(frozen=True)
class Exported:
    """What a flight ends in: a manifest, and whether its artifact was there without a build."""

    manifest: Manifest
    cached: bool


class ExportService:
    """Answers export requests. Belongs to one event loop.

    Args:
        store: where artifacts go.
        catalogue: remembers builds and exports.
        registry: the models.
        planner: a builder process for what takes milliseconds, so that it never waits for a build.
        builders: processes that build.
        board: where jobs are listed.
        queue_limit: different exports that may wait or run at one time.
        build_timeout_seconds, plan_timeout_seconds: how long a build, or a plan, may take.
        observer: told what happens, for metrics.
        monotonic: seconds, for durations.
    """

    def __init__(
        self,
        *,
        store: ArtifactStore,
        catalogue: Catalogue,
        registry: ModelRegistry,
        planner: BuilderClient,
        builders: BuilderPool,
        board: JobBoard,
        queue_limit: int = 64,
        build_timeout_seconds: float = 1800.0,
        plan_timeout_seconds: float = 120.0,
        observer: JobObserver | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._registry = registry
        self._planner = planner
        self._builders = builders
        self._board = board
        self._queue_limit = queue_limit
        self._build_timeout_seconds = build_timeout_seconds
        self._plan_timeout_seconds = plan_timeout_seconds
        self._observer = observer or SilentObserver()
        self._monotonic = monotonic
        self._requests: FlightDeck[Exported] = FlightDeck()
        self._builds: FlightDeck[Exported] = FlightDeck()
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._recent_seconds: deque[float] = deque([10.0], maxlen=20)

    @property
    def pending(self) -> int:
        """Different exports that wait or run now."""
        return len(self._requests)

    def lookup(self, request: ExportRequest) -> Manifest | None:
        """The manifest of an export whose artifact is in the store now, without waiting; counts as a use.

        Raises:
            UnknownModelError: there is no such model.
        """
        model = self._registry.get(request.model)
        key = export_key(model.digest, request)
        manifest = self._manifests.get(key)
        if manifest is None:
            manifest = self._catalogue.export(key)
        if manifest is None:
            return None
        if manifest["digest"] not in self._store:
            self._manifests.pop(key, None)
            return None
        self._remember(key, manifest)
        self._store.touch(manifest["digest"])
        self._observer.export_cached()
        return named(manifest, model.name)

    async def submit(self, request: ExportRequest) -> Job:
        """A job for an export: finished at once when the artifact is there, else sharing a build with its equals.

        Raises:
            UnknownModelError: there is no such model.
            QueueFullError: too many different exports wait or run.
        """
        model = self._registry.get(request.model)
        manifest = self.lookup(request)
        if manifest is not None:
            job = self._board.create("export", model.name)
            job.succeed(manifest, cached=True)
            return job
        key = export_key(model.digest, request)
        if key in self._requests:
            self._observer.export_joined()
        else:
            self._check_queue()
            self._observer.export_missed()
        job = self._board.create("export", model.name)
        flight = self._requests.join(key, lambda flight: self._export(flight, key, request, model), job)
        job.attach(lambda: self._leave(flight, job))
        flight.task.add_done_callback(lambda task: _finish(job, task, model.name))
        self._observer.pending_changed(self.pending)
        return job

    async def close(self) -> None:
        """Cancels what waits or runs; the jobs end as cancelled."""
        await self._requests.close()
        await self._builds.close()

    def _check_queue(self) -> None:
        if self.pending < self._queue_limit:
            return
        mean_seconds = sum(self._recent_seconds) / len(self._recent_seconds)
        # An honest guess of when a place is free: one build of the builders at work must end.
        retry_after = math.ceil(mean_seconds / len(self._builders))
        raise QueueFullError(
            pending=self.pending, limit=self._queue_limit, retry_after_seconds=min(600, max(1, retry_after))
        )

    def _leave(self, flight: Flight[Exported], job: Job) -> None:
        self._requests.leave(flight, job)
        self._observer.pending_changed(self.pending)

    def _remember(self, key: str, manifest: Manifest) -> None:
        self._manifests[key] = manifest
        self._manifests.move_to_end(key)
        if len(self._manifests) > MANIFESTS_IN_MEMORY:
            self._manifests.popitem(last=False)

    async def _export(self, flight: Flight[Exported], key: str, request: ExportRequest, model: Model) -> Exported:
        """The request flight: a plan, then the build that it leads to, then a manifest for this very request."""
        try:
            flight.advance("plan", 0.0, running=False)
            plan = await self._plan(request, model)
            build_key = plan["build_key"]
            built = self._built(build_key)
            if built is None:
                if build_key in self._builds:
                    self._observer.export_joined()
                built = await self._builds.ride(
                    build_key, lambda build: self._build(build, build_key, plan, request, model), flight
                )
            manifest = {**built.manifest, **plan["manifest"]}
            await asyncio.to_thread(self._catalogue.put_export, key, manifest)
            self._remember(key, manifest)
            return Exported(manifest, built.cached)
        except Exception:
            if not model.path.exists():
                raise UnknownModelError(model.name, [other.name for other in self._registry.list()]) from None
            raise
        finally:
            asyncio.get_running_loop().call_soon(lambda: self._observer.pending_changed(self.pending))

    async def _plan(self, request: ExportRequest, model: Model) -> dict[str, Any]:
        """The plan of the planner: `build_key`, `bytes`, and `manifest`, the members that depend on the request."""
        params = {**self._params(request, model)}
        for attempt in range(ATTEMPTS):
            try:
                plan: dict[str, Any] = await self._planner.call(
                    "plan", params, timeout_seconds=self._plan_timeout_seconds
                )
                return plan
            except BuilderDiedError:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _built(self, build_key: str) -> Exported | None:
        manifest = self._catalogue.build(build_key)
        if manifest is None or manifest["digest"] not in self._store:
            return None
        self._store.touch(manifest["digest"])
        return Exported(manifest, cached=True)

    async def _build(
        self, flight: Flight[Exported], build_key: str, plan: dict[str, Any], request: ExportRequest, model: Model
    ) -> Exported:
        """The build flight: waits for a builder, has it write a file, adopts the file."""
        began = self._monotonic()
        try:
            flight.advance("queued", 0.0, running=False)
            async with self._builders.borrow() as builder:
                self._observer.stage_finished("queue", self._monotonic() - began)
                manifest = await self._run_build(flight, builder, build_key, plan, request, model)
        except asyncio.CancelledError:
            self._observer.build_finished("cancelled", self._monotonic() - began)
            log.info("build cancelled", extra={"build_key": build_key, "model": model.name})
            raise
        except Exception as error:
            self._observer.build_finished("failed", self._monotonic() - began)
            log.warning(
                "build failed",
                extra={"build_key": build_key, "model": model.name, "code": getattr(error, "code", "internal")},
            )
            raise
        self._observer.build_finished("done", self._monotonic() - began)
        return Exported(manifest, cached=False)

    async def _run_build(
        self,
        flight: Flight[Exported],
        builder: BuilderClient,
        build_key: str,
        plan: dict[str, Any],
        request: ExportRequest,
        model: Model,
    ) -> Manifest:
        for attempt in range(ATTEMPTS):
            flight.advance("start", 0.0, running=True)
            began = self._monotonic()
            with self._store.staging() as folder:
                await asyncio.to_thread(self._store.make_room, plan["bytes"])
                staged = folder / ARTIFACT_FILE
                try:
                    manifest: Manifest = await builder.call(
                        "export",
                        {**self._params(request, model), "path": str(staged)},
                        timeout_seconds=self._build_timeout_seconds,
                        on_progress=lambda stage, fraction: flight.advance(stage, fraction, running=True),
                    )
                except BuilderDiedError:
                    if attempt == ATTEMPTS - 1:
                        raise
                    log.warning("build started again", extra={"build_key": build_key, "model": model.name})
                    continue
                stored = self._monotonic()
                await asyncio.to_thread(self._adopt, staged, build_key, manifest)
            self._measure(manifest, build_seconds=stored - began, store_seconds=self._monotonic() - stored)
            log.info(
                "build finished", extra={"build_key": build_key, "model": model.name, "digest": manifest["digest"]}
            )
            return manifest
        raise AssertionError("unreachable")

    def _adopt(self, staged: Path, build_key: str, manifest: Manifest) -> None:
        self._store.adopt(staged, manifest["digest"])
        self._catalogue.put_build(build_key, manifest)

    def _measure(self, manifest: Manifest, *, build_seconds: float, store_seconds: float) -> None:
        self._recent_seconds.append(build_seconds + store_seconds)
        for stage, seconds in manifest.get("seconds", {}).items():
            self._observer.stage_finished(stage, float(seconds))
        self._observer.stage_finished("store", store_seconds)

    def _params(self, request: ExportRequest, model: Model) -> dict[str, Any]:
        return {
            "checkpoint": str(model.path),
            "digest": model.digest,
            "unit": request.unit,
            "value": request.value,
            "quality": request.quality,
            "multiple_of": request.multiple_of,
        }


def named(manifest: Manifest, model: str) -> Manifest:
    """The manifest under the name by which the model was asked for (one checkpoint may have several)."""
    return manifest if manifest.get("model") == model else {**manifest, "model": model}


def _finish(job: Job, task: asyncio.Task[Exported], model: str) -> None:
    if task.cancelled():
        job.cancel("the hub is stopping")
    elif (error := task.exception()) is not None:
        job.fail(error)
    else:
        exported = task.result()
        job.succeed(named(exported.manifest, model), cached=exported.cached)
