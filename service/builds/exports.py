"""Exports: from a request to the manifest of an artifact, with the least work however many ask at the same time.

A request is planned first, by the planner process, which takes milliseconds. Plans with the same build key share one
job, whose work is the build (`builds.py`). So the targets of a device family that end in one plan cost one build.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from service.builds.board import JobBoard
from service.builds.builds import BuildOrder, BuildService
from service.builds.job import Job, key_of_job
from service.builds.pool import BuilderPool
from service.builds.worker_process import BuilderClient
from service.contract.export_request import ExportRequest, export_key
from service.ground.errors import NotReadyError, QueueFullError, UnknownModelError
from service.ground.metrics import counter, gauge
from service.store.interface import ArtifactStore, Catalogue, Manifest
from service.store.models import Model, ModelRegistry

# Manifests kept in memory, about 2 KiB each, so that a cached export needs no SQL.
MANIFESTS_IN_MEMORY = 10_000
LONGEST_RETRY_SECONDS = 600

_HITS = counter("inn_cache_hits_total", "Exports answered by an artifact that was there.")
_MISSES = counter("inn_cache_misses_total", "Exports that needed a plan, and perhaps a build.")
_JOINED = counter("inn_exports_joined_total", "Requests that shared a build with an earlier one.")
_PENDING = gauge("inn_exports_pending", "Different exports that wait or run.")

Plan = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Export:
    """What one request gets: the manifest of an artifact that is there, or its share of a job.

    Attributes:
        members: of the manifest that are the request's own; the whole one where there is no job.
        job: that others may share, when the artifact was not there.
    """

    members: Manifest
    job: Job | None = None

    @property
    def is_finished(self) -> bool:
        """Whether there is a manifest or an error."""
        return self.job is None or self.job.is_finished

    async def wait(self, timeout_seconds: float | None = None) -> bool:
        """As `Job.wait`."""
        return self.job is None or await self.job.wait(timeout_seconds)

    def result(self) -> Manifest:
        """The manifest for this very request; errors as of `Job.result`."""
        return self.members if self.job is None else {**self.job.result(), **self.members}

    def cancel(self, reason: str) -> None:
        """Gives the export up; the work itself goes on when another request needs it."""
        if self.job is not None:
            self.job.leave(reason)


class ExportService:
    """Answers export requests. Belongs to one event loop.

    Args:
        store: where artifacts go.
        catalogue: remembers builds and exports.
        registry: the models.
        planner: a builder process for what takes milliseconds, so that a plan never waits for a build.
        builders: processes that build.
        board: where jobs are listed and run.
        queue_limit: different exports that may wait or run at one time, and that may be planned at one time.
        build_timeout_seconds: how long a build may take.
        plan_timeout_seconds: how long choosing a plan may take.
        make_room: see `BuildService`.
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
        make_room: Callable[[], Awaitable[object]],
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._registry = registry
        self._planner = planner
        self._board = board
        self._queue_limit = queue_limit
        self._plan_timeout_seconds = plan_timeout_seconds
        self._builds = BuildService(
            store=store,
            catalogue=catalogue,
            builders=builders,
            timeout_seconds=build_timeout_seconds,
            make_room=make_room,
        )
        self._planning: dict[str, asyncio.Task[Plan]] = {}
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        _PENDING.set_function(lambda: self.pending)

    @property
    def pending(self) -> int:
        """Different exports that wait or run now."""
        return sum(len(job.requests) for job in self._board.unfinished("export"))

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
        _HITS.inc()
        return _named(manifest, model.name)

    async def submit(self, request: ExportRequest) -> Export:
        """Plans an export and joins its build: finished at once when the artifact is there.

        Raises:
            UnknownModelError: there is no such model.
            CoreError: there is no plan for it.
            QueueFullError: too many different exports wait or run.
        """
        manifest = self.lookup(request)
        if manifest is not None:
            return Export(manifest)
        model = self._registry.get(request.model)
        key = export_key(model.digest, request)
        params = {
            "checkpoint": str(model.path),
            "digest": model.digest,
            "unit": request.unit,
            "value": request.value,
            "quality": request.quality,
            "multiple_of": request.multiple_of,
        }
        plan = await self._plan(key, params, model)
        build_key, members = plan["build_key"], plan["manifest"]
        running = self._board.running(build_key)
        if running is not None:
            _JOINED.inc()
        else:
            _MISSES.inc()
            built = self._catalogue.build(build_key)
            if built is not None and built["digest"] in self._store:
                self._store.touch(built["digest"])
                await self._note(build_key, built, {key: members})
                return Export(_named({**built, **members}, model.name))
        if running is None or key not in running.requests:
            self._check_queue(self.pending)
        order = BuildOrder(build_key, plan["bytes"], params, model.name)
        job = self._board.join(build_key, "export", model.name, lambda job: self._build(order, job, model))
        job.requests.setdefault(key, members)
        return Export({**members, "model": model.name}, job)

    async def close(self) -> None:
        """Cancels what is planned."""
        tasks = list(self._planning.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _plan(self, key: str, params: dict[str, Any], model: Model) -> Plan:
        """The plan of a request, made once for all who ask for it now."""
        planning = self._planning.get(key)
        if planning is None:
            self._check_queue(len(self._planning))
            call = self._planner.call("plan", params, timeout_seconds=self._plan_timeout_seconds, attempts=2)
            planning = self._planning[key] = asyncio.create_task(_while_there(model, self._registry, call))
            planning.add_done_callback(lambda _: self._planning.pop(key))
        try:
            return await asyncio.shield(planning)
        except asyncio.CancelledError:
            if planning.cancelled():
                raise NotReadyError("the hub is stopping") from None
            planning.add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )  # nobody may be left to see it
            raise

    async def _build(self, order: BuildOrder, job: Job, model: Model) -> Manifest:
        """The work of a job: the build, and a note of every request that led to it; its result is the first one's."""
        built = await _while_there(model, self._registry, self._builds.build(order, job))
        await self._note(order.build_key, built, job.requests)
        return _named({**built, **next(iter(job.requests.values()))}, model.name)

    async def _note(self, build_key: str, built: Manifest, asked: dict[str, Manifest]) -> None:
        for key, members in list(asked.items()):
            await asyncio.to_thread(self._catalogue.put_export, key, build_key, members)
            self._remember(key, {**built, **members})

    def _check_queue(self, pending: int) -> None:
        if pending >= self._queue_limit:
            retry_after = min(LONGEST_RETRY_SECONDS, max(1, math.ceil(self._builds.expected_seconds)))
            raise QueueFullError(pending=pending, limit=self._queue_limit, retry_after_seconds=retry_after)

    def _remember(self, key: str, manifest: Manifest) -> None:
        self._manifests[key] = manifest
        self._manifests.move_to_end(key)
        if len(self._manifests) > MANIFESTS_IN_MEMORY:
            self._manifests.popitem(last=False)


def recalled(catalogue: Catalogue, store: ArtifactStore, job_id: str) -> Job | None:
    """The job of this id as one that was done before, when the catalogue has what it made and the store still has it.

    Args:
        catalogue: remembers builds and curves.
        store: has the artifacts.
        job_id: see `job_id_of`.
    """
    work = catalogue.work(key_of_job(job_id))
    if work is None or (work.kind == "export" and work.result["digest"] not in store):
        return None
    return Job.of_result(job_id, work.kind, work.model, work.result, finished=work.finished)


async def _while_there(model: Model, registry: ModelRegistry, work: Coroutine[Any, Any, T]) -> T:
    """The result of work on a checkpoint; when it fails because the model was removed meanwhile, that is the error."""
    try:
        return await work
    except Exception:
        if not model.path.exists():
            raise UnknownModelError(model.name, [other.name for other in registry.list()]) from None
        raise


def _named(manifest: Manifest, model: str) -> Manifest:
    """The manifest under the name by which the model was asked for (one checkpoint may have several)."""
    return manifest if manifest.get("model") == model else {**manifest, "model": model}
