"""What goes wrong beside a take-up: shown as `failed` for as long as it holds, then what was shown before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from service.node.status import Status

Source = Literal["hub", "probe"]
"""Whose doing it is: answers of the hub that are refused or not believed, or sizes that are not measured."""


@dataclass(frozen=True)
class Condition:
    """One failure, as `Status.fail` takes it.

    Attributes:
        error: from `error_of`.
        attempt: how often it was tried.
        pause_seconds: until it is tried again, if it is.
    """

    error: Mapping[str, Any]
    attempt: int = 0
    pause_seconds: float | None = None


class Conditions:
    """The failures that hold now, at most one of each source. Lives on one event loop.

    A source that is well again ends its own doubt and no other: that the hub answers says nothing about a size that
    this device cannot measure.

    Args:
        status: where they are shown.
        is_working: whether a take-up is on its way, which shows what it is at instead.
    """

    def __init__(self, status: Status, is_working: Callable[[], bool]) -> None:
        self._status = status
        self._is_working = is_working
        self._held: dict[Source, Condition] = {}
        self._state = status.state
        self._error = status.error

    def show(self, source: Source, doubt: Condition) -> None:
        """Show a failure, in the place of an earlier one of its source, unless a take-up is on its way."""
        if self._is_working():
            return
        if not self._held:
            self._state, self._error = self._status.state, self._status.error
        self._held.pop(source, None)
        self._held[source] = doubt
        self._fail(doubt)

    def end(self, source: Source) -> None:
        """The source is well again: show what still holds, or what was shown before."""
        if self._held.pop(source, None) is None:
            return
        if self._is_working() or self._status.state != "failed":
            self._held.clear()  # something new began
        elif self._held:
            self._fail(list(self._held.values())[-1])
        else:
            self._status.enter(self._state, error=self._error)

    def forget(self) -> str:
        """Something new began that will say how it stands; returns the state beneath the doubts."""
        state = self._state if self._held else self._status.state
        self._held.clear()
        return state

    def _fail(self, doubt: Condition) -> None:
        self._status.fail(doubt.error, attempt=doubt.attempt, pause_seconds=doubt.pause_seconds)
