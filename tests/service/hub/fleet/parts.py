"""Parts of a fleet without a hub around them, on a file in a folder, with a clock that tests set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from service.hub.fleet.coordination import GroupWriter
from service.hub.fleet.documents import Budget, Desired, Reported
from service.hub.fleet.records import Generation, Node
from service.hub.fleet.registry import NodeRegistry
from service.hub.fleet.rollout.rollouts import Rollouts
from service.hub.fleet.tables import open_fleet_database, update_generation
from service.signing.keys import KeyPair
from service.store.database import Database

POLL_SECONDS = 10.0
KEY = KeyPair.from_seed(b"k" * 32).public.text


@dataclass
class Clock:
    """A clock that stands still until it is set."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Parts:
    """A registry, its rollouts and what they write to."""

    database: Database
    writer: GroupWriter
    registry: NodeRegistry
    rollouts: Rollouts
    clock: Clock
    changed: list[str] = field(default_factory=list)

    async def enroll(self, name: str, **labels: str) -> Node:
        """Adds a node."""
        return await self.registry.enroll(name, KEY, labels=labels, capability={})

    async def ready(self, node: Node) -> Generation:
        """Makes the current generation of a node ready, as the planner would, with a made-up artifact."""
        current = node.current
        assert current is not None
        digest = f"sha256:{int(current.desired.budget.value):064x}"
        made = replace(
            current,
            content=current.content or {"manifest": {"digest": digest, "params": 1, "model": "toy"}, "self_test": {}},
            document={"signed": {}, "signatures": []},
        )
        await self.writer.commit(update_generation(node.name, made))
        node.current = made
        self.registry.settled(node)
        return made

    async def commit(self, node: Node) -> Generation:
        """Lets a node take up its current generation and keep it."""
        made = await self.ready(node)
        await self.registry.report(node, reported("committed", made))
        assert node.current is not None
        return node.current


@asynccontextmanager
async def open_parts(folder: Path, clock: Clock | None = None, running: Clock | None = None) -> AsyncIterator[Parts]:
    """Opens the parts, and closes them; `running` never goes back, and is `clock` when not given."""
    clock = clock or Clock()
    database = open_fleet_database(folder / "fleet.sqlite")
    writer = GroupWriter(database)
    registry = NodeRegistry(database, writer, poll_seconds=POLL_SECONDS, clock=clock, running=running or clock)
    parts = Parts(database, writer, registry, Rollouts(database, writer, registry, clock=clock), clock)
    registry.changed = lambda node: parts.changed.append(node.name)
    try:
        yield parts
    finally:
        await registry.flush()
        await writer.close()
        database.close()


def desired(value: int = 100, model: str = "toy") -> Desired:
    """A desired state with a budget in parameters."""
    return Desired(model=model, budget=Budget(unit="params", value=value))


def reported(state: Any, generation: Generation, **more: Any) -> Reported:
    """A report about a generation."""
    active = None
    if generation.digest is not None:
        active = {"version": generation.number, "digest": generation.digest, "params": 1}
    document = {"observed_generation": generation.number, "state": state, "since": 1.0, "active": active, **more}
    return Reported.model_validate(document)
