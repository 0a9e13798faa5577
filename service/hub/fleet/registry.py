"""The nodes of a fleet: who they are, what they should run, what they say; one value in memory, one row on the disk.

What administrators and rollouts want is on the disk before anybody is told. What nodes report is in memory at once; the
part that decides something is on the disk before the node gets its answer, the rest follows within a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from service.ground.errors import InvalidRequestError
from service.hub.fleet import tables as store
from service.hub.fleet.coordination import Change, GroupWriter, RateLimiter, ResourceVersion
from service.hub.fleet.documents import Declared, Desired, Reported
from service.hub.fleet.errors import FleetFullError, GenerationConflictError, NothingToRollBackError, UnknownNodeError
from service.hub.fleet.records import DECLARED, PLANNED, RETRIED, ROLLBACK, Generation, Node
from service.store.database import Database

log = logging.getLogger(__name__)

NODES_MAX = 100_000
LABELS_MAX = 32
STALE_PERIODS = 3
FORESEEN_GENERATIONS = 2**40
"""No node gets so many; larger numbers in a report are a mistake."""


class NodeRegistry:
    """The nodes. Belongs to one event loop.

    Args:
        database: of the fleet.
        writer: of that database.
        poll_seconds: how often a node is expected to ask; it is stale after `STALE_PERIODS` of these.
        clock: seconds since the epoch.
        running: seconds that never go back, by which silence and changes are counted.
    """

    def __init__(
        self,
        database: Database,
        writer: GroupWriter,
        *,
        poll_seconds: float,
        clock: Callable[[], float] = time.time,
        running: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._running = running
        self._opened = running()
        self._allowance = RateLimiter(running=running)
        self.stale_seconds = STALE_PERIODS * poll_seconds
        self.revision = ResourceVersion()
        self._nodes = {node.name: node for node in store.load_nodes(database)}
        self.changed: Callable[[Node], None] = lambda node: None
        """Told of a node that has another generation or another report; set by whoever plans and rolls out."""

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, name: str) -> Node:
        """The node of this name.

        Raises:
            UnknownNodeError: there is none.
        """
        node = self._nodes.get(name)
        if node is None:
            raise UnknownNodeError(name)
        return node

    def find(self, name: str) -> Node | None:
        """The node of this name, if there is one."""
        return self._nodes.get(name)

    def select(self, selector: Mapping[str, str] | None = None) -> list[Node]:
        """The nodes that have all these labels, by name."""
        wanted = (selector or {}).items()
        return [node for _, node in sorted(self._nodes.items()) if wanted <= node.labels.items()]

    def is_stale(self, node: Node) -> bool:
        """Whether a node was not heard of for too long; a hub that has just started gives them all time.

        The clock of the wall has no say: when it is set forward, nodes have not been silent.
        """
        return self._running() - max(node.heard, self._opened) > self.stale_seconds

    def counts(self) -> dict[str, int]:
        """How many nodes are in each state."""
        return dict(Counter(node.state(is_stale=self.is_stale(node)) for node in self._nodes.values()))

    # Enrolment and labels

    async def enroll(
        self,
        name: str,
        public_key: str,
        *,
        labels: Mapping[str, str],
        capability: Mapping[str, Any],
        also: Iterable[Change] = (),
    ) -> Node:
        """Adds a node, or gives one that is there another key; durable when it returns.

        Args:
            name: of the node.
            public_key: as text.
            labels: are added to those it has.
            capability: what the device has.
            also: changes that go into the same transaction.
        """
        known = self._nodes.get(name)
        if known is None and len(self._nodes) >= NODES_MAX:
            raise FleetFullError("nodes", NODES_MAX)
        merged = check_labels({**({} if known is None else known.labels), **labels})
        now = self._clock()
        last = 0 if known is not None else await asyncio.to_thread(store.load_name, self._database, name)
        given = Node(name, public_key, merged, dict(capability), now, now, last)

        def apply() -> None:
            node = self._nodes.setdefault(name, given)
            node.public_key, node.labels, node.capability = public_key, merged, given.capability
            node.enrolled = node.last_seen = now
            node.heard = self._running()
            self._tell(node)

        await self._writer.commit(store.add_node(given), *also, then=apply)
        log.info("node enrolled", extra={"node": name})
        return self._nodes[name]

    async def remove(self, name: str) -> Node:
        """Forgets a node: its key counts no more. The numbers of its generations are never given out again."""
        node = self.get(name)

        def apply() -> None:
            self._nodes.pop(name, None)
            self._allowance.forget(name)
            node.current = None
            node.wake()
            self.revision.advance()

        await self._writer.commit(store.delete_node(name), then=apply)
        log.info("node removed", extra={"node": name})
        return node

    async def label(self, name: str, labels: Mapping[str, str | None]) -> Node:
        """Sets labels of a node; those that are None are taken away."""
        node = self.get(name)
        merged: dict[str, str | None] = {**node.labels, **labels}
        wanted = check_labels({key: value for key, value in merged.items() if value is not None})

        def apply() -> None:
            node.labels = wanted
            self.revision.advance()

        await self._writer.commit(store.update_labels(name, wanted), then=apply)
        return node

    # Desired state

    def prepare(
        self,
        node: Node,
        desired: Desired,
        *,
        origin: str,
        rollback_to: Generation | None = None,
        grown_from: Generation | None = None,
        search: Mapping[str, Any] | None = None,
    ) -> tuple[Generation, Change, Callable[[], None]]:
        """A new generation of a node, the change that makes it durable, and what to call when it is.

        Args:
            node: whose it is.
            desired: the desired state.
            origin: who asked.
            rollback_to: an older generation whose very content is wanted.
            grown_from: the generation that this one continues.
            search: what was measured so far.
        """
        number = node.next_generation()
        generation = Generation(
            number=number,
            root=number if grown_from is None else grown_from.root,
            kind="release",
            origin=origin,
            desired=desired,
            rollback=rollback_to is not None,
            created=self._clock(),
            content=None if rollback_to is None else rollback_to.content,
            search=search if rollback_to is None else rollback_to.search,
        )

        def apply() -> None:
            if self._nodes.get(node.name) is node and (node.current is None or node.current.number < number):
                node.current = generation
                self._tell(node)

        return generation, store.put_generation(node.name, generation), apply

    async def set_desired(
        self, name: str, desired: Desired, *, origin: str, if_generation: int | None = None
    ) -> Generation:
        """Gives a node another desired state; durable when it returns.

        Args:
            name: of the node.
            desired: the desired state.
            origin: who asked.
            if_generation: the generation it must be at.

        Raises:
            UnknownNodeError: there is no such node.
            GenerationConflictError: it is at another generation.
        """
        node = self.get(name)
        if if_generation is not None and if_generation != node.generation:
            raise GenerationConflictError(name, expected=if_generation, found=node.generation)
        generation, change, apply = self.prepare(node, desired, origin=origin)
        await self._writer.commit(change, then=apply)
        log.info("desired state set", extra={"node": name, "generation": generation.number, "origin": origin})
        return generation

    async def roll_back(self, name: str) -> Generation:
        """Gives a node again what it committed last before what it has now: the same artifact, a new generation.

        Doing it twice comes back to where it began.

        Raises:
            UnknownNodeError: there is no such node.
            NothingToRollBackError: it has committed nothing else.
        """
        node = self.get(name)
        earlier = await asyncio.to_thread(self.earlier, node)
        if earlier is None:
            raise NothingToRollBackError(name)
        generation, change, apply = self.prepare(node, earlier.desired, origin=ROLLBACK, rollback_to=earlier)
        await self._writer.commit(change, then=apply)
        log.info("rolled back", extra={"node": name, "generation": generation.number, "to": earlier.number})
        return generation

    def earlier(self, node: Node) -> Generation | None:
        """What a node committed last, other than what it should run now; reads the file."""
        current = node.current
        for generation in store.load_committed(self._database, node.name):
            if current is None or (generation.root != current.root and generation.digest != current.digest):
                return generation
        return None

    def generation_of(self, node: Node, number: int) -> Generation | None:
        """A generation of a node, as far as it is kept; reads the file."""
        return store.load_generation(self._database, node.name, number)

    async def continue_search(self, node: Node, search: Mapping[str, Any]) -> None:
        """The next generation of a search, with what was measured."""
        current = node.current
        assert current is not None, "a search has a generation"
        _, change, apply = self.prepare(node, current.desired, origin=PLANNED, grown_from=current, search=search)
        await self._writer.commit(change, then=apply)

    async def retry(self, node: Node) -> None:
        """A new generation that wants the same, for a cause that the node was told of and that may be gone."""
        current = node.current
        assert current is not None, "there is something to try again"
        _, change, apply = self.prepare(
            node, current.desired, origin=RETRIED, grown_from=current, search=current.search
        )
        await self._writer.commit(change, then=apply)

    # Reported state

    def seen(self, node: Node) -> None:
        """Notes that a node was heard of; written with the next change of the node, or after a while."""
        node.last_seen = self._clock()
        node.heard = self._running()
        node.is_dirty = True
        if node.was_stale:
            node.was_stale = False
            self._tell(node)

    async def report(self, node: Node, reported: Reported) -> None:
        """Takes a report over; what decides something is durable when it returns."""
        self.seen(node)
        before, node.reported = node.reported, reported
        declared = node.declared
        if reported.capability is not None:
            node.capability = reported.capability.model_dump(exclude_none=True)
        changes: list[Change] = []
        after: list[Callable[[], None]] = []
        current = node.current
        if current is not None and current.committed is None and node.has_committed:
            now = self._clock()
            node.current = replace(current, committed=now)
            changes.append(store.commit_generation(node.name, current.number, now))
        is_behind = self._notice_newer(node, reported) and self.may_change(node)
        is_declared = reported.declared is not None and self._take_declared(node, reported.declared, changes, after)
        if is_behind and not is_declared:
            self._catch_up(node, changes, after)
        if not reported.is_news(before) and not changes:
            return
        self._tell(node)

        def apply() -> None:
            for call in after:
                call()

        try:
            await self._writer.commit(store.update_node(node), *changes, then=apply)
        except BaseException:
            node.declared = declared  # it is news until its generation is durable
            node.is_dirty = True
            raise

    def _notice_newer(self, node: Node, reported: Reported) -> bool:
        """Whether a node has seen later generations than its current one, or another one of that number.

        The numbers that it has seen are not given out again in any case.
        """
        newest = reported.newest_version
        if newest < FORESEEN_GENERATIONS:
            node.generation = max(node.generation, newest)
        if node.current is None:
            return False
        current = node.current.number
        is_behind = current < newest < FORESEEN_GENERATIONS or (current == newest and reported.refuses_number(current))
        if is_behind:
            log.warning("node is ahead of the hub", extra={"node": node.name, "newest": newest})
        return is_behind

    def may_change(self, node: Node) -> bool:
        """Whether a report of this node may cause one more generation now, which is counted if so.

        Otherwise whoever has the key of one device could keep the hub busy with exports. What is put off comes with a
        later report.
        """
        is_allowed = self._allowance.take(node.name)
        if not is_allowed:
            log.warning("changes of a node put off", extra={"node": node.name})
        return is_allowed

    def _catch_up(self, node: Node, changes: list[Change], after: list[Callable[[], None]]) -> None:
        """A node that has seen later generations than this hub gave out refuses earlier ones: go on behind them.

        That is so when the files of the hub were restored from a backup.
        """
        current = node.current
        assert current is not None, "it is behind the node"
        _, change, apply = self.prepare(
            node, current.desired, origin=RETRIED, grown_from=current, search=current.search
        )
        changes.append(change)
        after.append(apply)

    def _take_declared(
        self, node: Node, declared: Declared, changes: list[Change], after: list[Callable[[], None]]
    ) -> bool:
        """Makes what a node was started with its desired state when that is news; returns whether it was."""
        document = declared.model_dump(mode="json")
        if document == node.declared:
            return False
        wanted = Desired(model=declared.model, budget=declared.budget, quality=declared.quality)
        is_wanted = node.current is not None and node.current.desired == wanted
        if not is_wanted and not self.may_change(node):
            return False
        node.declared = document
        if is_wanted:
            return False
        generation, change, apply = self.prepare(node, wanted, origin=DECLARED)
        log.info("desired state declared", extra={"node": node.name, "generation": generation.number})
        changes.append(change)
        after.append(apply)
        return True

    # Upkeep

    def notice_stale(self) -> None:
        """Tells of the nodes that have become stale since the last time."""
        for node in list(self._nodes.values()):
            if not node.was_stale and self.is_stale(node):
                node.was_stale = True
                log.warning("node is stale", extra={"node": node.name, "last_seen": node.last_seen})
                self._tell(node)

    async def flush(self) -> None:
        """Writes what is not in the file yet."""
        dirty = [node for node in self._nodes.values() if node.is_dirty]
        for node in dirty:
            node.is_dirty = False
        if dirty:
            try:
                await self._writer.commit(*(store.update_node(node) for node in dirty))
            except BaseException:
                for node in dirty:
                    node.is_dirty = True
                raise

    def settled(self, node: Node) -> None:
        """A generation has become ready, or has met a problem."""
        self._tell(node)

    def _tell(self, node: Node) -> None:
        self.revision.advance()
        self.changed(node)


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels, when there are not too many.

    Raises:
        InvalidRequestError: there are.
    """
    if len(labels) > LABELS_MAX:
        raise InvalidRequestError.at("/labels", f"{len(labels)} labels; a node has at most {LABELS_MAX}")
    return dict(labels)
