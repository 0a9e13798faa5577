"""The hub: store, catalogue, models, builders, exports and sessions of one process, opened and closed together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from service.builds.board import JobBoard
from service.builds.curves import CurveService
from service.builds.exports import ExportService, recalled
from service.builds.maintenance import run_maintenance
from service.builds.models import ModelService
from service.builds.pool import BuilderPool
from service.builds.worker_process import BuilderClient, builder_command
from service.ground.errors import NotReadyError, ServiceError
from service.ground.files import hash_file
from service.ground.settings import ApiSettings
from service.hub.fleet.fleet import Fleet, FleetOptions, open_fleet
from service.inference.providers import usable_providers
from service.inference.session_pool import SessionPool
from service.store.catalogue import SqliteCatalogue
from service.store.interface import Catalogue
from service.store.local import LocalStore
from service.store.models import ModelRegistry

log = logging.getLogger(__name__)

CATALOGUE_FILE = "catalogue.sqlite"
DEMO_CHECKPOINT = Path("checkpoints") / "fashion_resnet.inn"


@dataclass(frozen=True)
class Hub:
    """Everything that routes need."""

    settings: ApiSettings
    store: LocalStore
    catalogue: Catalogue
    registry: ModelRegistry
    board: JobBoard
    exports: ExportService
    curves: CurveService
    models: ModelService
    sessions: SessionPool
    fleet: Fleet
    builders_started: asyncio.Task[None]

    def check_ready(self) -> None:
        """Whether requests will be served.

        Raises:
            NotReadyError: the builder processes have not started, or could not.
        """
        if not self.builders_started.done():
            raise NotReadyError("the builder processes are starting")
        if self.builders_started.cancelled() or self.builders_started.exception() is not None:
            raise NotReadyError("the builder processes did not start; the log of the hub says why", 30)


@asynccontextmanager
async def open_hub(
    settings: ApiSettings,
    *,
    imports: Sequence[Path] = (),
    command: Sequence[str] | None = None,
) -> AsyncIterator[Hub]:
    """Open everything, import checkpoints, and close everything in the opposite order.

    Args:
        settings: of the hub.
        imports: checkpoints to register under their own names, replacing others of these names; with none, and no
            model registered from before, the demo checkpoint that ships with the package.
        command: starts a builder process; that of the settings when not given.

    Raises:
        ServiceError: the store cannot be opened, or a checkpoint is refused.
    """
    command = command or builder_command(settings.builder_settings())
    async with AsyncExitStack() as stack:
        settings.store.mkdir(parents=True, exist_ok=True)
        catalogue = SqliteCatalogue(settings.store / CATALOGUE_FILE)
        stack.callback(catalogue.close)
        store = await asyncio.to_thread(
            LocalStore,
            settings.store,
            capacity_bytes=settings.store_capacity_bytes,
            journal=catalogue,
        )
        stack.callback(store.close)
        registry = ModelRegistry(settings.store, catalogue)
        board = JobBoard(
            kept=settings.jobs_kept,
            kept_seconds=settings.jobs_kept_seconds,
            recall=functools.partial(recalled, catalogue, store),
        )
        sessions = SessionPool(
            store,
            sessions_max=settings.sessions_max,
            memory_bytes=settings.session_memory_bytes,
            threads=settings.ort_threads,
            # "cuda" is a demand on the builders only: sessions take what their runtime has
            providers=await asyncio.to_thread(usable_providers, "cpu" if settings.device == "cpu" else "auto"),
        )
        stack.push_async_callback(sessions.close)

        def builder(name: str) -> BuilderClient:
            return BuilderClient(command, name=name, store=settings.store)

        planner = builder("planner")
        stack.push_async_callback(planner.close)
        builders = BuilderPool([builder(f"builder-{number}") for number in range(settings.builder_processes)])
        stack.push_async_callback(builders.close)
        curves = CurveService(
            catalogue=catalogue,
            registry=registry,
            builders=builders,
            board=board,
            timeout_seconds=settings.build_timeout_seconds,
        )
        exports = ExportService(
            store=store,
            catalogue=catalogue,
            registry=registry,
            planner=planner,
            builders=builders,
            board=board,
            queue_limit=settings.queue_limit,
            build_timeout_seconds=settings.build_timeout_seconds,
            plan_timeout_seconds=settings.plan_timeout_seconds,
            make_room=sessions.evict_idle,
        )
        stack.push_async_callback(board.close)
        stack.push_async_callback(exports.close)
        models = ModelService(
            registry=registry,
            store=store,
            planner=planner,
            timeout_seconds=settings.plan_timeout_seconds,
            max_checkpoint_bytes=settings.max_checkpoint_bytes,
        )
        started = asyncio.create_task(_start(planner, builders), name="start builders")
        stack.push_async_callback(_stop, started)
        upkeep = asyncio.create_task(run_maintenance(catalogue, board), name="upkeep")
        stack.push_async_callback(_stop, upkeep)
        await _import_all(models, registry, imports)
        fleet = await stack.enter_async_context(
            open_fleet(
                settings.store,
                options=_fleet_options(settings),
                exports=exports,
                models=registry,
                store=store,
                sessions=sessions,
            )
        )
        hub = Hub(settings, store, catalogue, registry, board, exports, curves, models, sessions, fleet, started)
        yield hub


def demo_checkpoint() -> Path | None:
    """The checkpoint that ships with `inn_core`, found without importing it."""
    spec = importlib.util.find_spec("inn_core")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in (Path(folder) / "data" / DEMO_CHECKPOINT, Path(folder).parent / "models" / DEMO_CHECKPOINT):
            if path.is_file():
                return path
    return None


def _fleet_options(settings: ApiSettings) -> FleetOptions:
    return FleetOptions(
        admin_key=None if settings.admin_key is None else settings.admin_key.get_secret_value(),
        release_days=settings.fleet_release_days,
        poll_seconds=settings.fleet_poll_seconds,
    )


async def _import_all(models: ModelService, registry: ModelRegistry, imports: Sequence[Path]) -> None:
    paths = list(imports)
    if not paths and not registry.list():
        demo = demo_checkpoint()
        if demo is None:
            log.warning("no model to serve")
        else:
            paths.append(demo)
    for path in paths:
        try:
            digest = await asyncio.to_thread(hash_file, path)
            if any(model.digest == digest for model in registry.list()):
                continue  # registered by an earlier process: no need to read and check it again
            await models.import_file(path, replace=True)
        except (ServiceError, OSError) as error:
            log.error("import failed", extra={"file": str(path), "detail": str(error)})
            raise


async def _start(planner: BuilderClient, builders: BuilderPool) -> None:
    try:
        await planner.start()
        await builders.start()
    except ServiceError as error:
        log.error("builders not started", extra={"code": error.code, "detail": error.message})
        raise


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, ServiceError):
        await task
