"""Rollouts over a registry: what they change and put back, what a crash leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.ground.errors import StoreFullError
from service.hub.fleet.documents import Budget, Change
from service.hub.fleet.errors import EmptyRolloutError, RolloutConflictError, RolloutStateError, UnknownRolloutError
from service.hub.fleet.records import ADMIN
from tests.service.hub.fleet.parts import Clock, Parts, desired, open_parts, reported

CHANGE = Change(model="toy", budget=Budget(unit="params", value=500))
ERROR = {"code": "latency-exceeded", "detail": "too slow", "generation": 2}


def with_fleet(
    folder: Path, test: Callable[[Parts], Awaitable[None]], *, n_nodes: int = 10, clock: Clock | None = None
) -> None:
    """Runs a test with nodes that have each committed a size of their own."""

    async def run() -> None:
        async with open_parts(folder, clock) as parts:
            for number in range(n_nodes):
                node = await parts.enroll(f"n{number}", site="x" if number % 2 else "y")
                await parts.registry.set_desired(node.name, desired(number + 1), origin=ADMIN)
                await parts.commit(node)
            await test(parts)

    asyncio.run(run())


def wishes(parts: Parts) -> dict[str, float]:
    """The budget of every node."""
    return {node.name: node.current.desired.budget.value for node in parts.registry.select() if node.current}


def changed(parts: Parts) -> list[str]:
    """The nodes that are to have what the rollout brings."""
    return [name for name, value in wishes(parts).items() if value == 500]


def test_canaries_first_then_the_rest(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        rollout = await parts.rollouts.create(CHANGE, selector={}, canary_share=0.2)
        first = changed(parts)
        assert len(first) == 2
        await parts.commit(parts.registry.get(first[0]))
        await parts.rollouts.advance()
        assert changed(parts) == first
        await parts.commit(parts.registry.get(first[1]))
        await parts.rollouts.advance()
        assert len(changed(parts)) == 10
        for node in parts.registry.select():
            if node.name not in first:
                await parts.commit(node)
        await parts.rollouts.advance()
        assert parts.rollouts.get(rollout.id).stage == "done"
        with pytest.raises(RolloutStateError):
            await parts.rollouts.abort(rollout.id)

    with_fleet(tmp_path, run)


@pytest.mark.parametrize("state", ["failed", "rolled-back"])
def test_failures_put_everything_back_as_it_was(tmp_path: Path, state: str) -> None:
    async def run(parts: Parts) -> None:
        before = wishes(parts)
        contents = {node.name: node.current.content for node in parts.registry.select() if node.current}
        rollout = await parts.rollouts.create(CHANGE, selector={}, canary_share=0.3)
        first = changed(parts)
        await parts.commit(parts.registry.get(first[0]))
        node = parts.registry.get(first[1])
        generation = await parts.ready(node)
        await parts.registry.report(node, reported(state, generation, error=ERROR))
        await parts.rollouts.advance()
        ended = parts.rollouts.get(rollout.id)
        assert ended.stage == "aborted"
        assert first[1] in str(ended.reason)
        assert wishes(parts) == before
        for name in first:
            current = parts.registry.get(name).current
            assert current is not None
            assert (current.rollback, current.content) == (True, contents[name])
        untouched = [member.node for member in ended.members if member.outcome == "untouched"]
        assert sorted(untouched + first) == sorted(before)
        assert all(parts.registry.get(name).generation == 1 for name in untouched)
        generations = {node.name: node.generation for node in parts.registry.select()}
        await parts.rollouts.advance()
        await parts.rollouts.abort(rollout.id)
        assert {node.name: node.generation for node in parts.registry.select()} == generations

    with_fleet(tmp_path, run)


def test_a_node_that_tries_again_by_itself_has_not_failed_yet(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        rollout = await parts.rollouts.create(CHANGE, selector={})
        node = parts.registry.get(changed(parts)[0])
        generation = await parts.ready(node)
        for attempt, stage in ((1, "canary"), (2, "canary"), (3, "aborted")):
            await parts.registry.report(
                node, reported("failed", generation, error=ERROR, attempt=attempt, next_retry=9.0)
            )
            await parts.rollouts.advance()
            assert parts.rollouts.get(rollout.id).stage == stage

    with_fleet(tmp_path, run)


def test_a_silent_canary_ends_it(tmp_path: Path) -> None:
    clock = Clock()

    async def run(parts: Parts) -> None:
        rollout = await parts.rollouts.create(CHANGE, selector={})
        clock.now += parts.registry.stale_seconds + 1
        await parts.rollouts.advance()
        ended = parts.rollouts.get(rollout.id)
        assert ended.stage == "aborted"
        assert [member.reason for member in ended.members if member.is_canary] == ["stale: the node was not heard of"]

    with_fleet(tmp_path, run, clock=clock)


def test_a_paused_rollout_holds_still_also_over_a_restart(tmp_path: Path) -> None:
    async def first(parts: Parts) -> None:
        rollout = await parts.rollouts.create(CHANGE, selector={"site": "x"}, canary_share=0.2, name="später")
        await parts.rollouts.pause(rollout.id)
        await parts.commit(parts.registry.get(changed(parts)[0]))
        await parts.rollouts.advance()
        assert len(changed(parts)) == 1

    async def second() -> None:
        async with open_parts(tmp_path) as parts:
            (rollout,) = parts.rollouts.list()
            assert (rollout.is_paused, rollout.name) == (True, "später")
            await parts.rollouts.advance()
            assert len(changed(parts)) == 1
            await parts.rollouts.resume(rollout.id)
            await parts.rollouts.advance()
            assert len(changed(parts)) == 5
            await parts.rollouts.abort(rollout.id)
            assert changed(parts) == []

    with_fleet(tmp_path, first)
    asyncio.run(second())


def test_without_a_budget_each_node_keeps_its_own(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        await parts.enroll("empty")
        before = wishes(parts)
        rollout = await parts.rollouts.create(Change(model="other"), selector={}, canary_share=1.0)
        assert wishes(parts) == before
        assert {node.current.desired.model for node in parts.registry.select() if node.current} == {"other"}
        assert "empty" not in {member.node for member in rollout.members}
        await parts.registry.label("empty", {"site": "z"})
        with pytest.raises(EmptyRolloutError, match="budget"):
            await parts.rollouts.create(Change(model="other"), selector={"site": "z"})

    with_fleet(tmp_path, run, n_nodes=3)


def test_what_cannot_be_rolled_out(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        with pytest.raises(EmptyRolloutError, match="labels"):
            await parts.rollouts.create(CHANGE, selector={"site": "nowhere"})
        await parts.rollouts.create(CHANGE, selector={"site": "x"})
        with pytest.raises(RolloutConflictError):
            await parts.rollouts.create(CHANGE, selector={})
        await parts.rollouts.create(CHANGE, selector={"site": "y"})
        with pytest.raises(UnknownRolloutError):
            parts.rollouts.get("0" * 16)

    with_fleet(tmp_path, run, n_nodes=4)


def test_a_node_that_was_removed_in_the_middle_does_not_hold_it_up(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        rollout = await parts.rollouts.create(CHANGE, selector={}, canary_share=0.5)
        first = changed(parts)
        await parts.registry.remove(first[0])
        await parts.commit(parts.registry.get(first[1]))
        await parts.rollouts.advance()
        assert len(changed(parts)) == 3
        for node in parts.registry.select():
            await parts.commit(node)
        await parts.rollouts.advance()
        assert parts.rollouts.get(rollout.id).stage == "done"

    with_fleet(tmp_path, run, n_nodes=4)


def test_a_disk_that_is_full_leaves_nothing_half_done(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        before = wishes(parts)
        connection = parts.database._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

        async def fill() -> None:
            for _ in range(50):
                await parts.rollouts.create(CHANGE, selector={}, canary_share=1.0, name="x" * 4000)
                await parts.rollouts.abort(parts.rollouts.list()[-1].id)

        with pytest.raises(StoreFullError):
            await fill()
        open_now = [rollout for rollout in parts.rollouts.list() if not rollout.has_ended]
        connection.execute("PRAGMA max_page_count = 1000000")
        for rollout in open_now:
            await parts.rollouts.abort(rollout.id)
        assert wishes(parts) == before

    with_fleet(tmp_path, run, n_nodes=3)
