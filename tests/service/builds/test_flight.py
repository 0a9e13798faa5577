"""Single-flight: one run for equal keys, cancelled when nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.builds.single_flight import Flight, SingleFlight


class Watcher:
    """A `Waiter` that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float, bool]] = []

    def advance(self, stage: str, fraction: float, *, running: bool) -> None:
        self.seen.append((stage, fraction, running))


Run = Callable[[Flight[int]], Coroutine[Any, Any, int]]


def counted(runs: list[str], release: asyncio.Event) -> Run:
    async def run(flight: Flight[int]) -> int:
        runs.append(flight.key)
        await release.wait()
        return len(runs)

    return run


def test_equal_keys_share_a_run_and_other_keys_do_not() -> None:
    async def scenario() -> None:
        deck: SingleFlight[int] = SingleFlight()
        runs: list[str] = []
        release = asyncio.Event()
        rides = [asyncio.create_task(deck.run(key, counted(runs, release), Watcher())) for key in "aabab"]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert runs == ["a", "b"]
        assert len(deck) == 2
        release.set()
        await asyncio.gather(*rides)
        await asyncio.sleep(0)
        assert len(deck) == 0

    asyncio.run(scenario())


def test_late_member_hears_the_present_state() -> None:
    async def scenario() -> None:
        deck: SingleFlight[int] = SingleFlight()

        async def run(flight: Flight[int]) -> int:
            flight.advance("discretize", 0.5, running=True)
            flight.advance("start", 0.0, running=True)
            await asyncio.sleep(0.01)
            return 1

        early, late = Watcher(), Watcher()
        flight = deck.join("a", run, early)
        await asyncio.sleep(0)
        deck.join("a", run, late)
        assert await flight.task == 1
        assert early.seen == [("queued", 0.0, False), ("discretize", 0.5, True), ("start", 0.5, True)]
        assert late.seen == [("start", 0.5, True)]

    asyncio.run(scenario())


def test_run_goes_on_while_one_member_is_left_and_stops_with_the_last() -> None:
    async def scenario() -> None:
        deck: SingleFlight[int] = SingleFlight()
        runs: list[str] = []
        run = counted(runs, asyncio.Event())
        first, second = (asyncio.create_task(deck.run("a", run, Watcher())) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        assert "a" in deck
        assert not second.done()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert "a" not in deck
        again = asyncio.create_task(deck.run("a", run, Watcher()))
        await asyncio.sleep(0.01)
        assert runs == ["a", "a"]
        await deck.close()
        with pytest.raises(asyncio.CancelledError):
            await again

    asyncio.run(scenario())


def test_all_members_get_the_error_of_the_run() -> None:
    async def scenario() -> None:
        deck: SingleFlight[int] = SingleFlight()

        async def run(flight: Flight[int]) -> int:
            await asyncio.sleep(0)
            raise ValueError("no")

        results = await asyncio.gather(*(deck.run("a", run, Watcher()) for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [ValueError] * 3

    asyncio.run(scenario())


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["join", "cancel", "finish"]), st.sampled_from("ab"), st.integers(0, 5)), max_size=30
    )
)
@settings(max_examples=100, deadline=None)
def test_at_most_one_run_of_a_key_is_wanted_at_any_time(steps: list[tuple[str, str, int]]) -> None:
    async def scenario() -> None:
        deck: SingleFlight[int] = SingleFlight()
        release = {key: asyncio.Event() for key in "ab"}
        wanted = dict.fromkeys("ab", 0)
        rides: list[asyncio.Task[int]] = []

        async def run(flight: Flight[int]) -> int:
            wanted[flight.key] += 1
            assert wanted[flight.key] == 1
            try:
                await release[flight.key].wait()
            finally:
                wanted[flight.key] -= 1
            return 1

        for action, key, number in steps:
            if action == "join":
                rides.append(asyncio.create_task(deck.run(key, run, Watcher())))
            elif action == "cancel" and rides:
                rides[number % len(rides)].cancel()
            elif action == "finish":
                release[key].set()
                release[key] = asyncio.Event()
            for _ in range(5):
                await asyncio.sleep(0)
        await deck.close()
        results = await asyncio.gather(*rides, return_exceptions=True)
        assert all(result == 1 or isinstance(result, asyncio.CancelledError) for result in results)
        assert len(deck) == 0

    asyncio.run(scenario())
