"""Runs rollouts: steps are taken when nodes change and time passes, each in one transaction: a crash loses none."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from service.hub.fleet import tables as store
from service.hub.fleet.coordination import Change, GroupWriter
from service.hub.fleet.documents import Change as DesiredChange
from service.hub.fleet.documents import Desired, Reported
from service.hub.fleet.errors import (
    EmptyRolloutError,
    FleetFullError,
    RolloutConflictError,
    RolloutStateError,
    UnknownRolloutError,
)
from service.hub.fleet.records import ROLLBACK, Generation, Node
from service.hub.fleet.registry import NodeRegistry
from service.hub.fleet.rollout.steps import (
    REMOVED,
    Member,
    NodeView,
    Rollout,
    Step,
    abort,
    choose_members,
    step,
    with_members,
)
from service.store.database import Database

log = logging.getLogger(__name__)

ROLLOUTS_KEPT = 200
FAILED_STATES = ("failed", "rolled-back")
ATTEMPTS = 3
"""A node that will try again by itself (network, disk full) counts as failed after so many attempts."""


class Rollouts:
    """The rollouts of a fleet. Belongs to one event loop.

    Args:
        database: of the fleet.
        writer: of that database.
        registry: the nodes.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        writer: GroupWriter,
        registry: NodeRegistry,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._writer = writer
        self._registry = registry
        self._clock = clock
        self._rollouts = {document["id"]: Rollout.of(document) for document in store.load_rollouts(database)}
        # Steps read, decide and write; one after the other.
        self._lock = asyncio.Lock()

    def list(self) -> list[Rollout]:
        """All rollouts, oldest first."""
        return list(self._rollouts.values())

    def get(self, rollout_id: str) -> Rollout:
        """The rollout of this id.

        Raises:
            UnknownRolloutError: there is none.
        """
        rollout = self._rollouts.get(rollout_id)
        if rollout is None:
            raise UnknownRolloutError(rollout_id)
        return rollout

    async def create(
        self,
        change: DesiredChange,
        *,
        selector: Mapping[str, str],
        name: str | None = None,
        canary_share: float = 0.1,
        max_failures: int = 1,
        bake_seconds: float = 0.0,
    ) -> Rollout:
        """Begins a rollout for the nodes that have these labels now.

        Raises:
            EmptyRolloutError: there are none, or none that has a budget when the change has none.
            RolloutConflictError: another rollout that has not ended has some of them.
            FleetFullError: too many rollouts have not ended.
        """
        async with self._lock:
            nodes = self._registry.select(selector)
            if not nodes:
                raise EmptyRolloutError(f"no node has the labels {dict(selector)}")
            if change.budget is None:
                nodes = [node for node in nodes if node.current is not None]
                if not nodes:
                    raise EmptyRolloutError("no budget is given and none of the nodes has one")
            self._check_free({node.name for node in nodes})
            forgotten = self._make_room()
            rollout_id = secrets.token_hex(8)
            members = choose_members(
                rollout_id, [(node.name, self._registry.is_stale(node)) for node in nodes], canary_share
            )
            rollout = Rollout(
                id=rollout_id,
                name=name,
                selector=dict(selector),
                change=change,
                canary_share=canary_share,
                max_failures=max_failures,
                bake_seconds=bake_seconds,
                created=self._clock(),
                members=members,
            )
            await self._take(self._next(rollout), forgotten)
            log.info("rollout created", extra={"rollout": rollout_id, "nodes": len(members)})
            return self._rollouts[rollout_id]

    async def pause(self, rollout_id: str) -> Rollout:
        """Holds a rollout: no further node is changed, and none put back, until it is resumed or aborted."""
        return await self._set_paused(rollout_id, paused=True)

    async def resume(self, rollout_id: str) -> Rollout:
        """Lets a rollout that was held go on."""
        return await self._set_paused(rollout_id, paused=False)

    async def abort(self, rollout_id: str, reason: str = "on request") -> Rollout:
        """Ends a rollout and puts back what it changed; one that was aborted already stays so.

        Raises:
            UnknownRolloutError: there is none of this id.
            RolloutStateError: it is done.
        """
        async with self._lock:
            rollout = self.get(rollout_id)
            if rollout.stage == "aborted":
                return rollout
            if rollout.stage == "done":
                raise RolloutStateError(rollout_id, state="done", action="be aborted")
            judged = step(
                replace(rollout, is_paused=True), self._views(rollout), self._clock(), stale_seconds=self._stale
            )
            await self._take(abort(judged.rollout, reason))
            return self._rollouts[rollout_id]

    async def advance(self) -> None:
        """Takes the steps that are due."""
        async with self._lock:
            for rollout in list(self._rollouts.values()):
                if not rollout.has_ended:
                    taken = self._next(rollout)
                    if taken.rollout != rollout or taken.start or taken.put_back:
                        await self._take(taken)

    @property
    def n_open(self) -> int:
        """How many have not ended."""
        return sum(not rollout.has_ended for rollout in self._rollouts.values())

    @property
    def _stale(self) -> float:
        return self._registry.stale_seconds

    async def _set_paused(self, rollout_id: str, *, paused: bool) -> Rollout:
        async with self._lock:
            rollout = self.get(rollout_id)
            if rollout.has_ended:
                raise RolloutStateError(rollout_id, state=rollout.stage, action="be paused" if paused else "go on")
            await self._take(self._next(replace(rollout, is_paused=paused)))
            return self._rollouts[rollout_id]

    def _next(self, rollout: Rollout) -> Step:
        return step(rollout, self._views(rollout), self._clock(), stale_seconds=self._stale)

    def _views(self, rollout: Rollout) -> dict[str, NodeView]:
        views = {}
        for member in rollout.members:
            node = self._registry.find(member.node)
            if node is not None:
                views[member.node] = _view(node, member, is_stale=self._registry.is_stale(node))
        return views

    async def _take(self, taken: Step, also: tuple[Change, ...] = ()) -> None:
        """Makes a step durable as a whole, then lets the nodes know."""
        changes: list[Change] = list(also)
        after: list[Callable[[], None]] = []
        members: dict[str, Member] = {}

        def give(node: Node, made: tuple[Generation, Change, Callable[[], None]]) -> Generation:
            changes.append(made[1])
            after.append(made[2])
            return made[0]

        for member in taken.start:
            node = self._registry.find(member.node)
            if node is None:
                members[member.node] = replace(member, outcome="superseded", reason=REMOVED)
                continue
            desired = _desired(taken.rollout.change, node)
            if desired is None:
                members[member.node] = replace(member, outcome="superseded", reason="the node was enrolled anew")
                continue
            before = None if node.current is None else node.current.number
            made = give(node, self._registry.prepare(node, desired, origin=f"rollout:{taken.rollout.id}"))
            members[member.node] = replace(
                member, outcome="updating", generation=made.number, before=before, since=self._clock()
            )
        for member in taken.put_back:
            node = self._registry.find(member.node)
            if node is None:
                members[member.node] = replace(member, outcome="superseded", reason=REMOVED)
                continue
            found = (
                None
                if member.before is None
                else await asyncio.to_thread(self._registry.generation_of, node, member.before)
            )
            if found is None:
                members[member.node] = replace(member, outcome="kept")
                continue
            whole = found.kind == "release" and found.content is not None
            give(
                node,
                self._registry.prepare(
                    node,
                    found.desired,
                    origin=ROLLBACK,
                    rollback_to=found if whole else None,
                    search=found.search,
                ),
            )
            members[member.node] = replace(member, outcome="restored")
        rollout = with_members(taken.rollout, members)
        changes.append(store.put_rollout(rollout.document()))

        def apply() -> None:
            self._rollouts[rollout.id] = rollout
            for call in after:
                call()
            self._registry.revision.advance()

        await self._writer.commit(*changes, then=apply)
        log.info("rollout step", extra={"rollout": rollout.id, "stage": rollout.stage, "changed": len(members)})

    def _check_free(self, nodes: set[str]) -> None:
        for rollout in self._rollouts.values():
            if not rollout.has_ended:
                shared = sorted(nodes & {member.node for member in rollout.members})
                if shared:
                    raise RolloutConflictError(rollout.id, shared)

    def _make_room(self) -> tuple[Change, ...]:
        """Forgets the oldest ended rollouts beyond the number kept."""
        excess = len(self._rollouts) + 1 - ROLLOUTS_KEPT
        ended = [rollout.id for rollout in self._rollouts.values() if rollout.has_ended][: max(0, excess)]
        if len(ended) < excess:
            raise FleetFullError("rollouts that have not ended", ROLLOUTS_KEPT)
        for rollout_id in ended:
            del self._rollouts[rollout_id]
        return tuple(store.delete_rollout(rollout_id) for rollout_id in ended)


def _desired(change: DesiredChange, node: Node) -> Desired | None:
    """What a node is to have; None when it has no budget to keep: it was removed and came back since the beginning."""
    budget = change.budget
    if budget is None:
        if node.current is None:
            return None
        budget = node.current.desired.budget
    return Desired(**{**dict(change), "budget": budget})


def _view(node: Node, member: Member, *, is_stale: bool) -> NodeView:
    current, report = node.current, node.reported
    failure = None
    if current is not None and current.root == member.generation:
        if current.problem is not None and current.problem.is_final:
            failure = f"{current.problem.code}: {current.problem.detail}"
        elif report is not None and _has_failed(report) and report.observed_generation == current.number:
            trouble = report.error
            failure = report.state if trouble is None else f"{report.state}: {trouble.code}: {trouble.detail}"
    return NodeView(
        root=None if current is None else current.root,
        has_committed=current is not None and current.committed is not None,
        failure=failure,
        is_stale=is_stale,
    )


def _has_failed(report: Reported) -> bool:
    goes_on = report.next_retry is not None and report.attempt < ATTEMPTS
    return report.state in FAILED_STATES and not goes_on
