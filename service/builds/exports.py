"""Exports: from a request to the manifest of an artifact, with the least work however many ask at the same time.

Requests for the same thing share a *request flight*, which asks the planner process for a plan. Plans with the same
build key share a build (`builds.py`). So the targets of a device family that end in one plan cost one build.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from typing import Any

from service.builds.board import JobBoard
from service.builds.builds import BuildOrder, BuildService, Built
from service.builds.export_request import ExportRequest, export_key
from service.builds.job import Job
from service.builds.observer import JobObserver, SilentObserver
from service.builds.pool import BuilderPool
from service.builds.single_flight import Flight, SingleFlight
from service.builds.worker_process import BuilderClient
from service.ground.errors import QueueFullError, UnknownModelError
from service.store.interface import ArtifactStore, Catalogue, Manifest
from service.store.models import Model, ModelRegistry

# Manifests kept in memory, about 2 KiB each, so that a cached export needs no SQL.
MANIFESTS_IN_MEMORY = 10_000
LONGEST_RETRY_SECONDS = 600


class ExportService:
    """Answers export requests. Belongs to one event loop.

    Args:
        store: where artifacts go.
        catalogue: remembers builds and exports.
        registry: the models.
        planner: a builder process for what takes milliseconds, so that a plan never waits for a build.
        builders: processes that build.
        board: where jobs are listed.
        queue_limit: different exports that may wait or run at one time.
        build_timeout_seconds: how long a build may take.
        plan_timeout_seconds: how long choosing a plan may take.
        observer: told what happens, for metrics.
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
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._registry = registry
        self._planner = planner
        self._board = board
        self._queue_limit = queue_limit
        self._plan_timeout_seconds = plan_timeout_seconds
        self._observer = observer or SilentObserver()
        self._builds = BuildService(
            store=store,
            catalogue=catalogue,
            builders=builders,
            timeout_seconds=build_timeout_seconds,
            observer=self._observer,
        )
        self._flights: SingleFlight[Built] = SingleFlight()
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()

    @property
    def pending(self) -> int:
        """Different exports that wait or run now."""
        return len(self._flights)

    def lookup(self, request: ExportRequest) -> Manifest | None:
        """The manifest of an export whose artifact is in the store now, without waiting; counts as a use.

        Raises:
            UnknownModelError: there is no such model.
        """
        model = self._registry.get(request.model)
        key = export_key(model.digest, request)
        manifest = self._manifests.get(key) or self._catalogue.export(key)
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
        """A job for an export: finished at once when the artifact is there, else sharing the work with its equals.

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
        if key in self._flights:
            self._observer.export_joined()
        else:
            self._check_queue()
            self._observer.export_missed()
        job = self._board.create("export", model.name)
        flight = self._flights.join(key, lambda flight: self._fly(flight, key, request, model), job)
        job.attach(lambda: self._leave(flight, job))
        flight.task.add_done_callback(lambda task: self._finish(job, task, model.name))
        self._observer.pending_changed(self.pending)
        return job

    async def close(self) -> None:
        """Cancels what waits or runs; the jobs end as cancelled."""
        await self._flights.close()
        await self._builds.close()

    async def _fly(self, flight: Flight[Built], key: str, request: ExportRequest, model: Model) -> Built:
        """A plan, then the build that it leads to, then a manifest for this very request."""
        params = {
            "checkpoint": str(model.path),
            "digest": model.digest,
            "unit": request.unit,
            "value": request.value,
            "quality": request.quality,
            "multiple_of": request.multiple_of,
        }
        try:
            flight.advance("plan", 0.0, running=False)
            plan: dict[str, Any] = await self._planner.call(
                "plan", params, timeout_seconds=self._plan_timeout_seconds, attempts=2
            )
            order = BuildOrder(plan["build_key"], plan["bytes"], params, model.name)
            built = await self._builds.build(order, flight)
        except Exception:
            if not model.path.exists():  # the model was removed in the meantime
                raise UnknownModelError(model.name, [other.name for other in self._registry.list()]) from None
            raise
        manifest = {**built.manifest, **plan["manifest"]}
        await asyncio.to_thread(self._catalogue.put_export, key, order.build_key, plan["manifest"])
        self._remember(key, manifest)
        return Built(manifest, built.cached)

    def _finish(self, job: Job, task: asyncio.Task[Built], model: str) -> None:
        if task.cancelled():
            job.cancel("the hub is stopping")
        elif (error := task.exception()) is not None:
            job.fail(error)
        else:
            built = task.result()
            job.succeed(named(built.manifest, model), cached=built.cached)
        self._observer.pending_changed(self.pending)

    def _leave(self, flight: Flight[Built], job: Job) -> None:
        self._flights.leave(flight, job)
        self._observer.pending_changed(self.pending)

    def _check_queue(self) -> None:
        if self.pending >= self._queue_limit:
            retry_after = min(LONGEST_RETRY_SECONDS, max(1, math.ceil(self._builds.expected_seconds)))
            raise QueueFullError(pending=self.pending, limit=self._queue_limit, retry_after_seconds=retry_after)

    def _remember(self, key: str, manifest: Manifest) -> None:
        self._manifests[key] = manifest
        self._manifests.move_to_end(key)
        if len(self._manifests) > MANIFESTS_IN_MEMORY:
            self._manifests.popitem(last=False)


def named(manifest: Manifest, model: str) -> Manifest:
    """The manifest under the name by which the model was asked for (one checkpoint may have several)."""
    return manifest if manifest.get("model") == model else {**manifest, "model": model}
