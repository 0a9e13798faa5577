"""A hub without a web: store, catalogue, registry and services around fake builder processes."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.builds.board import JobBoard
from service.builds.curves import CurveService
from service.builds.exports import Export, ExportService, recalled
from service.builds.job import Job
from service.builds.models import ModelService
from service.builds.pool import BuilderPool
from service.builds.worker_process import BuilderClient
from service.contract.export_request import ExportRequest
from service.store.catalogue import SqliteCatalogue
from service.store.local import LocalStore
from service.store.models import Model, ModelRegistry
from tests.service.counted import Counted

FAKE_COMMAND = [sys.executable, str(Path(__file__).with_name("fake_builder.py"))]
CHECKPOINT = b"inn: a fake checkpoint"


@dataclass
class Hub:
    """The parts, and what tests ask of them."""

    root: Path
    store: LocalStore
    catalogue: SqliteCatalogue
    registry: ModelRegistry
    planner: BuilderClient
    builders: BuilderPool
    board: JobBoard
    exports: ExportService
    curves: CurveService
    models: ModelService
    counted: Counted

    @property
    def model(self) -> Model:
        """The model `fake`."""
        return self.registry.get("fake")

    def builds(self) -> list[str]:
        """Lines of the fake builder's log: `pid value`."""
        log = self.root / "builds.log"
        return log.read_text().splitlines() if log.exists() else []

    def hold(self) -> None:
        """Holds builds up."""
        (self.root / "release").unlink(missing_ok=True)
        (self.root / "hold").touch()

    def release(self) -> None:
        """Lets builds go on."""
        (self.root / "release").touch()

    def stray_files(self) -> list[Path]:
        """What lies in the staging folder."""
        return list((self.root / "staging").iterdir())

    async def export(self, value: int, **options: Any) -> dict[str, Any]:
        """The manifest of an export, waited for."""
        export = await self.exports.submit(ExportRequest("fake", "params", value, **options))
        assert await export.wait(30)
        return export.result()


async def nothing_to_give() -> int:
    """No session holds an artifact."""
    return 0


@asynccontextmanager
async def open_hub(
    root: Path,
    *,
    capacity_bytes: int = 1_000_000,
    processes: int = 1,
    queue_limit: int = 64,
    build_timeout_seconds: float = 30.0,
    store_options: dict[str, Any] | None = None,
    make_room: Callable[[], Awaitable[object]] = nothing_to_give,
) -> AsyncIterator[Hub]:
    """Opens a hub in a folder, with the model `fake`, and closes it."""
    counted = Counted()
    catalogue = SqliteCatalogue(root / "catalogue.sqlite")
    store = LocalStore(root, capacity_bytes=capacity_bytes, journal=catalogue, **(store_options or {}))
    registry = ModelRegistry(root, catalogue)
    planner = BuilderClient(FAKE_COMMAND, name="planner", store=root)
    builders = BuilderPool([BuilderClient(FAKE_COMMAND, store=root) for _ in range(processes)])
    board = JobBoard(recall=functools.partial(recalled, catalogue, store))
    exports = ExportService(
        store=store,
        catalogue=catalogue,
        registry=registry,
        planner=planner,
        builders=builders,
        board=board,
        queue_limit=queue_limit,
        build_timeout_seconds=build_timeout_seconds,
        make_room=make_room,
    )
    curves = CurveService(catalogue=catalogue, registry=registry, builders=builders, board=board)
    models = ModelService(registry=registry, store=store, planner=planner)
    try:
        with store.staging() as folder:
            (folder / "checkpoint.inn").write_bytes(CHECKPOINT)
            digest = f"sha256:{hashlib.sha256(CHECKPOINT).hexdigest()}"
            registry.add("fake", folder / "checkpoint.inn", digest=digest, description={})
        yield Hub(root, store, catalogue, registry, planner, builders, board, exports, curves, models, counted)
    finally:
        await exports.close()
        await board.close()
        await builders.close()
        await planner.close()
        store.close()
        catalogue.close()


def request(value: int) -> ExportRequest:
    """A request for the model `fake`."""
    return ExportRequest("fake", "params", value)


def job_of(export: Export) -> Job:
    """The job of an export that has one."""
    assert export.job is not None
    return export.job


async def reach(export: Export, stage: str) -> None:
    """Waits until the job of an export is in a stage."""
    job = job_of(export)
    async with asyncio.timeout(20):
        async for status in job.events():
            if status is not None and status.stage == stage:
                return
    raise AssertionError(f"the job never came to '{stage}'")
