"""Single-flight: equal keys share one run, which goes on while anybody waits for it and is cancelled otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Waiter(Protocol):
    """Who waits for a flight and wants to know how far it is."""

    def advance(self, stage: str, fraction: float, *, running: bool) -> None:
        """The flight is in this stage, `fraction` of the whole is done, and it runs or still waits for a builder."""
        ...


class Flight(Generic[T]):
    """One run of a key and those who wait for it; itself a `Waiter`, so that flights can wait for flights."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.members: list[Waiter] = []
        self.task: asyncio.Task[T]
        self._stage = "queued"
        self._fraction = 0.0
        self._running = False

    def advance(self, stage: str, fraction: float, *, running: bool) -> None:
        """Tells all members; `fraction` never goes back."""
        self._stage, self._running = stage, running
        self._fraction = max(self._fraction, fraction)
        for member in list(self.members):
            member.advance(self._stage, self._fraction, running=self._running)

    def add(self, member: Waiter) -> None:
        """Takes a member in and tells it the present state."""
        self.members.append(member)
        member.advance(self._stage, self._fraction, running=self._running)


class SingleFlight(Generic[T]):
    """The flights of one kind, by key. Belongs to one event loop."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight[T]] = {}
        self._ending: set[asyncio.Task[T]] = set()

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: object) -> bool:
        return key in self._flights

    def join(self, key: str, run: Callable[[Flight[T]], Coroutine[Any, Any, T]], member: Waiter) -> Flight[T]:
        """The flight of a key with one more member; started by `run` when there is none."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = Flight(key)
            flight.task = asyncio.create_task(run(flight), name=f"flight {key[:20]}")
            flight.task.add_done_callback(lambda _: self._landed(flight))
        flight.add(member)
        return flight

    def leave(self, flight: Flight[T], member: Waiter) -> None:
        """Takes a member out; the last one to leave a flight that is not done cancels it."""
        if member in flight.members:
            flight.members.remove(member)
        if not flight.members and not flight.task.done():
            self._landed(flight)
            self._ending.add(flight.task)
            flight.task.add_done_callback(self._ending.discard)
            flight.task.cancel()

    async def run(self, key: str, run: Callable[[Flight[T]], Coroutine[Any, Any, T]], member: Waiter) -> T:
        """Joins a flight, waits for its result and leaves it; leaves it as well when the waiting is cancelled."""
        flight = self.join(key, run, member)
        try:
            return await asyncio.shield(flight.task)
        finally:
            self.leave(flight, member)

    async def close(self) -> None:
        """Cancels all flights and waits for their end."""
        tasks = [flight.task for flight in self._flights.values()] + list(self._ending)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, flight: Flight[T]) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
