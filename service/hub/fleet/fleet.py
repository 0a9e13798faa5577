"""The fleet of a hub: registry, admission, planner and rollouts, opened and closed together, and what ties them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.contract.node_states import ALL_STATES
from service.ground.errors import ServiceError
from service.ground.metrics import gauge
from service.hub.fleet.authentication import Authenticator
from service.hub.fleet.coordination import GroupWriter, wait_for_wake
from service.hub.fleet.documents import Reported
from service.hub.fleet.reconciler import Reconciler
from service.hub.fleet.records import Generation, Node
from service.hub.fleet.registry import NodeRegistry
from service.hub.fleet.release_content import Artifacts, Exporter, Models, ReleaseContentBuilder
from service.hub.fleet.release_signing import Signer
from service.hub.fleet.rollout.rollouts import Rollouts
from service.hub.fleet.sizing import budget_search as device
from service.hub.fleet.sizing.drift import DriftWatch
from service.hub.fleet.tables import open_fleet_database
from service.inference.session_pool import SessionPool
from service.signing.admin_key import AdminKey
from service.signing.vault import Vault

log = logging.getLogger(__name__)

FOLDER, DATABASE_FILE, KEYS_FOLDER, ADMIN_KEY_FILE = "fleet", "fleet.sqlite", "keys", "admin-key"
TICK_SECONDS = 1.0
RETRY_MODEL_SECONDS = 5.0
STEP_SECONDS = 0.1
"""Between two looks at rollouts, so that what many nodes report at once is one step."""
GATHER_SECONDS = 0.05
"""Watchers wait so long after a change, so that 200 nodes that change at once are one answer, not 200."""


_NODES = gauge("inn_fleet_nodes", "Nodes of the fleet.", ["state"])


@dataclass(frozen=True)
class FleetOptions:
    """What the fleet needs of the settings.

    Attributes:
        admin_key: of administrators; the one in the store, made when missing, when not given.
        release_days: life of signed documents.
        poll_seconds: how often nodes are expected to ask.
    """

    admin_key: str | None = None
    release_days: float = 30.0
    poll_seconds: float = 30.0


class Fleet:
    """Everything that the routes of the fleet need. Belongs to one event loop; open it with `open_fleet`."""

    def __init__(
        self,
        *,
        registry: NodeRegistry,
        admission: Authenticator,
        planner: Reconciler,
        rollouts: Rollouts,
        vault: Vault,
        contents: ReleaseContentBuilder,
    ) -> None:
        self.registry = registry
        self.admission = admission
        self.rollouts = rollouts
        self.vault = vault
        self._planner = planner
        self._contents = contents
        self._poked = asyncio.Event()
        self._is_leaving = False
        self._retry_at = 0.0
        self._searching: set[str] = set()
        self._drift = DriftWatch()
        registry.changed = self._changed

    # What nodes ask

    async def desired_for(self, node: Node, *, after: int, seconds: float) -> dict[str, Any] | None:
        """What a node should know that is newer than what it knows, waited for.

        Args:
            node: who asks.
            after: the last generation it was told of.
            seconds: how long to wait.

        Returns:
            `{"generation", "desired", "release", "probe", "problem"}`, where `problem` is a `Problem`; None when
            there is nothing new.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        if after > node.generation:
            # No hub gave that out: a key was stolen, or a backup restored. The node has to hear what it refuses, and
            # says so, and what else it needs.
            after = 0
        while not self._is_leaving:
            current = node.current
            if current is not None and current.is_ready and (current.committed is None or _lacks(node, after)):
                self._planner.restore(node, current)
            if current is not None and current.is_ready and current.number > after:
                if self._planner.is_fresh(node, current):
                    return _told(current)
                await self._planner.sign_again(node, current)
                if node.current is not None and node.current.number == current.number:
                    return _told(node.current)
                continue
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or not await wait_for_wake(node.waiting, left):
                return None
            self.registry.seen(node)
        return None

    async def report(self, node: Node, reported: Reported) -> None:
        """Takes over what a node says; durable, as far as it decides something, when it returns."""
        await self.registry.report(node, reported)
        await self._search(node)

    # What administrators ask

    async def changes(self, *, after: int | None, seconds: float) -> int:
        """Waits until the fleet is at another revision than `after`; returns the revision now."""
        revision = self.registry.revision
        if after is not None and after == revision.number:
            await revision.wait_beyond(after, seconds)
            if revision.number != after:
                await asyncio.sleep(GATHER_SECONDS)
        return revision.number

    async def remove(self, name: str) -> None:
        """Forgets a node; its key counts no more."""
        node = await self.registry.remove(name)
        self.admission.forget(name)
        self._drift.forget(name)
        self._planner.forget(node)
        self._poked.set()

    def view(self, node: Node) -> dict[str, Any]:
        """A node as administrators see it; `problem` is a `Problem` or None."""
        stale = self.registry.is_stale(node)
        current = node.current
        return {
            "node": node.name,
            "labels": node.labels,
            "capability": node.capability,
            "state": node.state(is_stale=stale),
            "stale": stale,
            "generation": node.generation,
            "desired": None if current is None else current.view(),
            "reported": None if node.reported is None else node.reported.document(),
            "problem": None if current is None else current.problem,
            "enrolled": node.enrolled,
            "last_seen": node.last_seen,
        }

    # Upkeep

    async def run(self, sleep: Callable[[float], Any] = asyncio.sleep) -> None:
        """Makes what is wanted ready, takes the steps of rollouts, writes what is pending; until it is cancelled."""
        for node in self.registry.select():
            self._planner.ensure(node)
        ticking = asyncio.create_task(self._tick(sleep), name="fleet tick")
        try:
            while True:
                await self._poked.wait()
                self._poked.clear()
                await _logged(self.rollouts.advance())
                await asyncio.sleep(STEP_SECONDS)
        finally:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking

    def dismiss(self) -> None:
        """Answers everybody who waits, since the hub is about to stop: an open request would hold it up."""
        self._is_leaving = True
        for node in self.registry.select():
            node.wake()
        self.registry.revision.advance()

    async def close(self) -> None:
        """Gives up what is being made, and writes what is pending."""
        await self._planner.close()
        await _logged(self.registry.flush())

    async def _tick(self, sleep: Callable[[float], Any]) -> None:
        while True:
            self.registry.notice_stale()
            counts = self.registry.counts()
            for state in ALL_STATES:
                _NODES.labels(state).set(counts.get(state, 0))
            await _logged(self.registry.flush())
            now = asyncio.get_running_loop().time()
            if now >= self._retry_at:
                self._retry_at = now + RETRY_MODEL_SECONDS
                await _logged(self._retry_models())
            self._poked.set()
            await sleep(TICK_SECONDS)

    async def _retry_models(self) -> None:
        """Goes on with nodes whose model was unknown and is there now."""
        for node in self.registry.select():
            problem = None if node.current is None else node.current.problem
            if node.current is not None and problem is not None and problem.code == "unknown-model":
                with contextlib.suppress(ServiceError):
                    self._contents.qualities(node.current.desired.model)
                    await self.registry.retry(node)

    async def _search(self, node: Node) -> None:
        """Goes on with a search when the node has measured what it was asked to."""
        current, report = node.current, node.reported
        if current is None or report is None or current.search is None or node.name in self._searching:
            return
        if current.kind == "release":
            search = self._drift.observe(node)
            if search is not None and self.registry.may_change(node):
                log.info("device has changed", extra={"node": node.name, "generation": current.number})
                await self._continue(node, search)
            return
        if current.document is None:
            return
        timings = [timing.model_dump() for timing in report.timings]
        search = device.with_timings(dict(current.search), current.desired.budget, timings)
        if report.observed_generation == current.number:  # it is done with the probe, and may have failed
            search = device.without_unmeasured(search, current.desired.budget)
        if device.unmeasured(search) or not self.registry.may_change(node):
            return
        await self._continue(node, search)

    async def _continue(self, node: Node, search: device.Search) -> None:
        self._searching.add(node.name)
        try:
            await self.registry.continue_search(node, search)
        finally:
            self._searching.discard(node.name)

    def _changed(self, node: Node) -> None:
        self._planner.ensure(node)
        self._poked.set()


@asynccontextmanager
async def open_fleet(
    root: Path,
    *,
    options: FleetOptions,
    exports: Exporter,
    models: Models,
    store: Artifacts,
    sessions: SessionPool,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Fleet]:
    """Opens the fleet of a store, runs it, and closes it.

    Args:
        root: folder of the store; the fleet lies in `fleet/` in it.
        options: from the settings.
        exports, models, store, sessions: of the hub.
        clock: seconds since the epoch.

    Raises:
        ServiceError: a file is damaged.
    """
    folder = root / FOLDER
    vault = await asyncio.to_thread(Vault.open, folder / KEYS_FOLDER)
    admin_key = (
        await asyncio.to_thread(AdminKey.load_or_create, folder / ADMIN_KEY_FILE)
        if options.admin_key is None
        else AdminKey(options.admin_key)
    )
    database = await asyncio.to_thread(open_fleet_database, folder / DATABASE_FILE)
    try:
        writer = GroupWriter(database)
        registry = NodeRegistry(database, writer, poll_seconds=options.poll_seconds, clock=clock)
        contents = ReleaseContentBuilder(exports=exports, models=models, store=store, sessions=sessions)
        fleet = Fleet(
            registry=registry,
            admission=Authenticator(database, writer, registry, vault=vault, admin_key=admin_key, clock=clock),
            planner=Reconciler(
                contents=contents,
                signer=Signer(vault, release_days=options.release_days, clock=clock),
                writer=writer,
                settled=registry.settled,
            ),
            rollouts=Rollouts(database, writer, registry, clock=clock),
            vault=vault,
            contents=contents,
        )
        running = asyncio.create_task(fleet.run(), name="fleet")
        try:
            yield fleet
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await fleet.close()
            await writer.close()
    finally:
        database.close()


def _told(generation: Generation) -> dict[str, Any]:
    kind = generation.kind if generation.document is not None else None
    return {
        "generation": generation.number,
        "desired": generation.view(),
        "release": generation.document if kind == "release" else None,
        "probe": generation.document if kind == "probe" else None,
        "problem": generation.problem if kind is None else None,
    }


def _lacks(node: Node, after: int) -> bool:
    """Whether a node that asks for what it committed does not serve it: its disk was damaged, or it is a new one."""
    current, report = node.current, node.reported
    if current is None or current.number <= after:
        return False
    return report is None or report.active is None or report.active.digest != current.digest


async def _logged(work: Any) -> None:
    """Awaits upkeep; a full disk is logged and tried again, and a defect in one part must not end the others."""
    try:
        await work
    except (ServiceError, sqlite3.Error) as error:
        log.warning("fleet not written", extra={"detail": str(error)})
    except Exception:
        log.exception("defect in the upkeep of the fleet")
