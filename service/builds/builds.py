"""Builds: from a plan to an artifact in the store, once for each build key, on a builder process that may die."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.builds.observer import JobObserver
from service.builds.pool import BuilderPool
from service.builds.single_flight import Flight, SingleFlight, Waiter
from service.builds.worker_process import BuilderClient
from service.ground.errors import BuilderDiedError
from service.store.interface import ArtifactStore, Catalogue, Manifest

log = logging.getLogger(__name__)

ARTIFACT_FILE = "artifact.onnx"
# A builder that dies in the middle of a build is replaced and the build tried once more.
ATTEMPTS = 2
FIRST_GUESS_SECONDS = 10.0


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


@dataclass(frozen=True)
class Built:
    """The manifest of an artifact in the store, and whether it was there without a build."""

    manifest: Manifest
    cached: bool


class BuildService:
    """Runs builds. Belongs to one event loop.

    Args:
        store: where artifacts go.
        catalogue: remembers what a build key led to.
        builders: processes that build.
        timeout_seconds: how long one attempt may take, not counting the wait for a builder.
        observer: told what happens, for metrics.
        monotonic: seconds, for durations.
    """

    def __init__(
        self,
        *,
        store: ArtifactStore,
        catalogue: Catalogue,
        builders: BuilderPool,
        timeout_seconds: float,
        observer: JobObserver,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._builders = builders
        self._timeout_seconds = timeout_seconds
        self._observer = observer
        self._monotonic = monotonic
        self._flights: SingleFlight[Built] = SingleFlight()
        self._recent_seconds: deque[float] = deque(maxlen=20)

    @property
    def expected_seconds(self) -> float:
        """How long the next of the builders at work is likely to take, from the last builds."""
        recent = self._recent_seconds or [FIRST_GUESS_SECONDS]
        return sum(recent) / len(recent) / len(self._builders)

    async def build(self, order: BuildOrder, member: Waiter) -> Built:
        """The artifact of an order: the one in the store, or that of the build that runs, or that of a new build.

        Cancelling the wait stops the build when nobody else waits for it.

        Raises:
            CoreError, BuildTimeoutError, BuilderFailedError, StoreFullError: why there is none.
        """
        manifest = self._catalogue.build(order.build_key)
        if manifest is not None and manifest["digest"] in self._store:
            self._store.touch(manifest["digest"])
            return Built(manifest, cached=True)
        if order.build_key in self._flights:
            self._observer.export_joined()
        return await self._flights.run(order.build_key, lambda flight: self._fly(flight, order), member)

    async def close(self) -> None:
        """Cancels all builds."""
        await self._flights.close()

    async def _fly(self, flight: Flight[Built], order: BuildOrder) -> Built:
        extra = {"build_key": order.build_key, "model": order.model}
        began = self._monotonic()
        try:
            flight.advance("queued", 0.0, running=False)
            async with self._builders.borrow() as builder:
                self._observer.stage_finished("queue", self._monotonic() - began)
                manifest = await self._run(flight, builder, order)
        except asyncio.CancelledError:
            self._observer.build_finished("cancelled", self._monotonic() - began)
            log.info("build cancelled", extra=extra)
            raise
        except Exception as error:
            self._observer.build_finished("failed", self._monotonic() - began)
            log.warning("build failed", extra={**extra, "code": getattr(error, "code", "internal")})
            raise
        self._observer.build_finished("done", self._monotonic() - began)
        log.info("build finished", extra={**extra, "digest": manifest["digest"]})
        return Built(manifest, cached=False)

    async def _run(self, flight: Flight[Built], builder: BuilderClient, order: BuildOrder) -> Manifest:
        for attempt in range(ATTEMPTS):
            try:
                return await self._attempt(flight, builder, order)
            except BuilderDiedError:
                if attempt == ATTEMPTS - 1:
                    raise
                log.warning("build started again", extra={"build_key": order.build_key, "model": order.model})
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, flight: Flight[Built], builder: BuilderClient, order: BuildOrder) -> Manifest:
        """One try in a staging folder of its own, which takes away whatever a killed builder leaves."""
        flight.advance("start", 0.0, running=True)
        began = self._monotonic()
        with self._store.staging() as folder:
            await asyncio.to_thread(self._store.make_room, order.size_bytes)
            staged = folder / ARTIFACT_FILE
            manifest: Manifest = await builder.call(
                "export",
                {**order.params, "path": str(staged)},
                timeout_seconds=self._timeout_seconds,
                on_progress=lambda stage, fraction: flight.advance(stage, fraction, running=True),
            )
            finished = self._monotonic()
            await asyncio.to_thread(self._keep, staged, order.build_key, manifest)
        self._recent_seconds.append(finished - began)
        for stage, seconds in manifest.get("seconds", {}).items():
            self._observer.stage_finished(stage, float(seconds))
        self._observer.stage_finished("store", self._monotonic() - finished)
        return manifest

    def _keep(self, staged: Path, build_key: str, manifest: Manifest) -> None:
        self._store.adopt(staged, manifest["digest"])
        self._catalogue.put_build(build_key, manifest)
