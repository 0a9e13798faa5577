"""The registry: generations that only grow, states that survive, reports that mean something."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.ground.errors import InvalidRequestError, StoreFullError
from service.hub.fleet.coordination import AT_ONCE, EACH_SECONDS
from service.hub.fleet.errors import GenerationConflictError, NothingToRollBackError, UnknownNodeError
from service.hub.fleet.records import ADMIN, DECLARED, RETRIED, ROLLBACK, Node
from service.hub.fleet.registry import LABELS_MAX, STALE_PERIODS
from service.hub.fleet.tables import GENERATIONS_KEPT, load_committed
from tests.service.hub.fleet.parts import KEY, POLL_SECONDS, Clock, Parts, desired, open_parts, reported

DECLARATION = {"model": "toy", "budget": {"unit": "params", "value": 70}}


def with_parts(folder: Path, test: Callable[[Parts], Awaitable[None]], clock: Clock | None = None) -> None:
    async def run() -> None:
        async with open_parts(folder, clock) as parts:
            await test(parts)

    asyncio.run(run())


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    async def first(parts: Parts) -> None:
        node = await parts.enroll("a", site="here")
        await parts.registry.set_desired("a", desired(10), origin=ADMIN)
        await parts.commit(node)
        await parts.registry.set_desired("a", desired(20), origin=ADMIN)
        await parts.registry.report(node, reported("downloading", node.current, declared=DECLARATION))

    async def second(parts: Parts) -> None:
        node = parts.registry.get("a")
        assert (node.labels, node.public_key) == ({"site": "here"}, KEY)
        assert node.generation == 3
        assert node.current is not None
        assert (node.current.number, node.current.origin, node.current.desired) == (3, DECLARED, desired(70))
        assert node.reported is not None
        assert node.reported.state == "downloading"
        earlier = parts.registry.earlier(node)
        assert earlier is not None
        assert (earlier.number, earlier.desired) == (1, desired(10))

    with_parts(tmp_path, first)
    with_parts(tmp_path, second)


actions = st.lists(
    st.tuples(
        st.sampled_from(["set", "declare", "rollback", "remove", "commit", "restart", "retry"]), st.integers(1, 5)
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(actions)
def test_generations_grow_whatever_happens_and_the_last_wish_counts(steps: list[tuple[str, int]]) -> None:
    async def run(folder: Path) -> None:
        numbers: list[int] = []
        wish: object = None
        pending = list(steps)
        while pending:
            async with open_parts(folder) as parts:
                if not len(parts.registry):
                    await parts.enroll("a")
                while pending:
                    action, value = pending.pop(0)
                    node = parts.registry.get("a")
                    if action == "set":
                        numbers.append((await parts.registry.set_desired("a", desired(value), origin=ADMIN)).number)
                        wish = desired(value)
                    elif action == "rollback":
                        try:
                            generation = await parts.registry.roll_back("a")
                        except NothingToRollBackError:
                            continue
                        assert generation.rollback
                        numbers.append(generation.number)
                        wish = generation.desired
                    elif action == "remove":
                        await parts.registry.remove("a")
                        await parts.enroll("a")
                        wish = None
                    elif action == "restart":
                        break
                    elif node.current is not None:
                        if action == "commit":
                            await parts.commit(node)
                        elif action == "retry":
                            await parts.registry.retry(node)
                            numbers.append(node.generation)
                    node = parts.registry.get("a")
                    assert (node.current.desired if node.current else None) == wish
                    assert node.generation >= max(numbers, default=0)
        assert numbers == sorted(set(numbers))

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


def test_rolling_back_twice_comes_back(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        node = await parts.enroll("a")
        contents = []
        for value in (10, 20):
            await parts.registry.set_desired("a", desired(value), origin=ADMIN)
            contents.append((await parts.commit(node)).content)
        for expected in (0, 1):
            generation = await parts.registry.roll_back("a")
            assert (generation.origin, generation.rollback) == (ROLLBACK, True)
            assert generation.content == contents[expected]
            await parts.commit(node)

    with_parts(tmp_path, run)


def test_a_size_that_was_never_kept_rolls_back_to_the_one_that_was(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        node = await parts.enroll("a")
        with pytest.raises(NothingToRollBackError):
            await parts.registry.roll_back("a")
        await parts.registry.set_desired("a", desired(10), origin=ADMIN)
        await parts.commit(node)
        with pytest.raises(NothingToRollBackError):
            await parts.registry.roll_back("a")
        await parts.registry.set_desired("a", desired(20), origin=ADMIN)
        assert (await parts.registry.roll_back("a")).desired == desired(10)

    with_parts(tmp_path, run)


def test_a_precondition_that_no_longer_holds_changes_nothing(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        await parts.enroll("a")
        await parts.registry.set_desired("a", desired(10), origin=ADMIN, if_generation=0)
        with pytest.raises(GenerationConflictError):
            await parts.registry.set_desired("a", desired(20), origin=ADMIN, if_generation=0)
        results = await asyncio.gather(
            *(parts.registry.set_desired("a", desired(n), origin=ADMIN, if_generation=1) for n in (30, 40, 50)),
            return_exceptions=True,
        )
        assert [isinstance(result, GenerationConflictError) for result in results] == [False, True, True]
        node = parts.registry.get("a")
        assert node.current is not None
        assert node.current.desired == desired(30)

    with_parts(tmp_path, run)


def test_what_a_node_was_started_with_counts_once(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        node = await parts.enroll("a")
        await parts.registry.set_desired("a", desired(10), origin=ADMIN)
        assert node.current is not None
        await parts.registry.report(node, reported("idle", node.current, declared=DECLARATION))
        assert (node.current.number, node.current.desired) == (2, desired(70))
        await parts.registry.set_desired("a", desired(30), origin=ADMIN)
        for state in ("idle", "downloading", "committed"):
            await parts.registry.report(node, reported(state, node.current, declared=DECLARATION))
        assert (node.current.number, node.current.desired) == (3, desired(30))
        other = {**DECLARATION, "budget": {"unit": "params", "value": 71}}
        await parts.registry.report(node, reported("idle", node.current, declared=other))
        assert (node.current.number, node.current.desired) == (4, desired(71))

    with_parts(tmp_path, run)


def test_a_node_that_is_ahead_of_a_restored_hub_gets_a_later_generation(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        node = await parts.enroll("a")
        await parts.registry.set_desired("a", desired(10), origin=ADMIN)
        assert node.current is not None
        await parts.registry.report(node, reported("committed", node.current, observed_generation=57))
        assert (node.current.number, node.current.desired) == (58, desired(10))
        await parts.registry.report(node, reported("committed", node.current, observed_generation=2**50))
        assert node.current.number == 58

    with_parts(tmp_path, run)


def test_a_node_that_has_another_release_of_the_same_number_gets_a_later_one(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        node = await parts.enroll("a")
        await parts.registry.set_desired("a", desired(10), origin=ADMIN)

        async def refuses(number: int | None) -> int:
            assert node.current is not None
            error = {"code": "replayed-document", "detail": "no", "generation": number}
            says = {"observed_generation": 0, "trusted": {"time": 0, "version": 1}, "error": error}
            await parts.registry.report(node, reported("failed", node.current, **says))
            return node.current.number

        # An older one is refused as it should be: somebody has sent it again.
        assert [await refuses(number) for number in (None, 0)] == [1, 1]
        assert await refuses(1) == 2
        assert node.current is not None
        assert (node.current.desired, node.current.origin) == (desired(10), RETRIED)
        assert await refuses(1) == 2  # what it said before it has heard of that

    with_parts(tmp_path, run)


def test_a_full_disk_does_not_keep_a_node_that_is_ahead_from_its_next_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*changes: Any, **options: Any) -> None:
        raise StoreFullError(needed_bytes=1, capacity_bytes=1, free_bytes=0)

    async def run(parts: Parts) -> None:
        node = await parts.enroll("a")
        await parts.registry.set_desired("a", desired(10), origin=ADMIN)
        assert node.current is not None
        ahead = reported("committed", node.current, observed_generation=57)
        declares = reported("committed", node.current, declared=DECLARATION)
        with monkeypatch.context() as patched:
            patched.setattr(parts.writer, "commit", full)
            for report in (ahead, declares):
                with pytest.raises(StoreFullError):
                    await parts.registry.report(node, report)
        assert node.current.number == 1
        assert node.declared is None
        await parts.registry.report(node, ahead)
        assert node.current.number > 57
        number = node.current.number
        await parts.registry.report(node, ahead)
        assert node.current.number == number

    with_parts(tmp_path, run)


def test_reports_cause_some_generations_at_once_and_then_one_in_a_while(tmp_path: Path) -> None:
    clock = Clock()

    async def run(parts: Parts) -> None:
        node, other = await parts.enroll("a"), await parts.enroll("b")
        await parts.registry.set_desired("a", desired(1), origin=ADMIN)

        async def declare(node: Node, value: int) -> int:
            assert node.current is not None
            declared = {**DECLARATION, "budget": {"unit": "params", "value": value}}
            await parts.registry.report(node, reported("idle", node.current, declared=declared))
            return node.current.number

        numbers = [await declare(node, 100 + value) for value in range(AT_ONCE + 3)]
        assert numbers == [*range(2, AT_ONCE + 2), *[AT_ONCE + 1] * 3]
        assert node.declared is not None
        assert node.declared["budget"]["value"] == 100 + AT_ONCE - 1  # the rest is still news
        clock.now += EACH_SECONDS
        assert await declare(node, 200) == AT_ONCE + 2
        assert await declare(node, 201) == AT_ONCE + 2
        await parts.registry.set_desired("b", desired(1), origin=ADMIN)
        assert await declare(other, 100) == 2
        await parts.registry.set_desired("a", desired(3), origin=ADMIN)  # people may do what they want
        assert node.current is not None
        assert node.current.number == AT_ONCE + 3

    with_parts(tmp_path, run, clock)


def test_a_node_that_is_ahead_is_not_forgotten_when_its_turn_is_put_off(tmp_path: Path) -> None:
    clock = Clock()

    async def run(parts: Parts) -> None:
        node = await parts.enroll("a")
        await parts.registry.set_desired("a", desired(1), origin=ADMIN)
        while parts.registry.may_change(node):
            pass
        assert node.current is not None
        ahead = reported("committed", node.current, observed_generation=57)
        await parts.registry.report(node, ahead)
        assert node.current.number == 1
        clock.now += EACH_SECONDS
        await parts.registry.report(node, ahead)
        assert node.current.number == 58

    with_parts(tmp_path, run, clock)


def test_a_clock_that_is_set_forward_makes_nobody_stale(tmp_path: Path) -> None:
    async def run() -> None:
        clock, running = Clock(), Clock(70.0)
        async with open_parts(tmp_path, clock, running) as parts:
            node = await parts.enroll("a")
            clock.now += 1000 * POLL_SECONDS
            assert not parts.registry.is_stale(node)
            running.now += STALE_PERIODS * POLL_SECONDS + 1
            assert parts.registry.is_stale(node)
            parts.registry.seen(node)
            clock.now -= 5000 * POLL_SECONDS
            assert not parts.registry.is_stale(node)

    asyncio.run(run())


def test_a_silent_node_is_stale_and_a_restarted_hub_gives_it_time(tmp_path: Path) -> None:
    clock = Clock()

    async def first(parts: Parts) -> None:
        node = await parts.enroll("a")
        assert node.state(is_stale=parts.registry.is_stale(node)) == "new"
        clock.now += STALE_PERIODS * POLL_SECONDS
        assert not parts.registry.is_stale(node)
        clock.now += 1
        parts.registry.notice_stale()
        assert parts.registry.counts() == {"stale": 1}
        assert parts.changed[-1:] == ["a"]
        parts.changed.clear()
        parts.registry.notice_stale()
        assert parts.changed == []
        parts.registry.seen(node)
        assert parts.registry.counts() == {"new": 1}
        assert parts.changed == ["a"]
        clock.now += 1000

    async def second(parts: Parts) -> None:
        assert parts.registry.counts() == {"new": 1}
        clock.now += STALE_PERIODS * POLL_SECONDS + 1
        assert parts.registry.counts() == {"stale": 1}

    with_parts(tmp_path, first, clock)
    with_parts(tmp_path, second, clock)


def test_labels_select_and_are_bounded(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        await parts.enroll("a", site="x", arch="arm")
        await parts.enroll("b", site="x'; DROP TABLE nodes; --")
        assert [node.name for node in parts.registry.select({"site": "x"})] == ["a"]
        assert [node.name for node in parts.registry.select({"site": "x'; DROP TABLE nodes; --"})] == ["b"]
        assert [node.name for node in parts.registry.select()] == ["a", "b"]
        await parts.registry.label("a", {"arch": None, "new": "1"})
        assert parts.registry.get("a").labels == {"site": "x", "new": "1"}
        with pytest.raises(InvalidRequestError, match="labels"):
            await parts.registry.label("a", {f"l{n}": "v" for n in range(LABELS_MAX)})
        assert parts.registry.get("a").labels == {"site": "x", "new": "1"}

    with_parts(tmp_path, run)


def test_a_report_of_a_node_that_was_removed_does_not_bring_it_back(tmp_path: Path) -> None:
    async def first(parts: Parts) -> None:
        node = await parts.enroll("a")
        generation = await parts.registry.set_desired("a", desired(10), origin=ADMIN)
        await asyncio.gather(
            parts.registry.remove("a"), parts.registry.report(node, reported("downloading", generation))
        )
        with pytest.raises(UnknownNodeError):
            parts.registry.get("a")

    async def second(parts: Parts) -> None:
        assert len(parts.registry) == 0
        node = await parts.enroll("a")
        assert node.generation == 1

    with_parts(tmp_path, first)
    with_parts(tmp_path, second)


def test_old_generations_are_forgotten_but_those_that_were_kept_last_longer(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        node = await parts.enroll("a")
        await parts.registry.set_desired("a", desired(1), origin=ADMIN)
        await parts.commit(node)
        for value in range(2, GENERATIONS_KEPT + 10):
            await parts.registry.set_desired("a", desired(value), origin=ADMIN)
        kept = parts.database.read("SELECT count(*) FROM generations")[0][0]
        assert kept == GENERATIONS_KEPT + 1
        assert [generation.number for generation in load_committed(parts.database, "a")] == [1]
        assert (await parts.registry.roll_back("a")).desired == desired(1)

    with_parts(tmp_path, run)


def test_frequent_reports_of_the_same_cost_no_writes(tmp_path: Path) -> None:
    async def run(parts: Parts) -> None:
        node = await parts.enroll("a")
        generation = await parts.registry.set_desired("a", desired(1), origin=ADMIN)
        await parts.registry.report(node, reported("downloading", generation))
        before = parts.database._connection.total_changes
        for n_bytes in range(100):
            progress = {"bytes": n_bytes, "total": 100}
            await parts.registry.report(node, reported("downloading", generation, progress=progress))
        assert parts.database._connection.total_changes == before
        await parts.registry.flush()
        assert parts.database._connection.total_changes == before + 1

    with_parts(tmp_path, run)
