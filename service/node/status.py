"""How a node is: what it reports to its hub and shows under `/status`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from service.contract.release import Release
from service.ground.errors import ServiceError
from service.ground.version import version
from service.node.benchmark.device_info import resident_bytes
from service.node.serving import Serving

TIMINGS_MAX = 64


class Status:
    """The reported state. `changed` is set whenever the hub should hear of it soon. Lives on one event loop.

    Args:
        serving: what serves.
        declared: model and budget that the node was started with.
        capability: what the device has.
        trusted: what the node believes already, see `TrustStore.proof`.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        serving: Serving,
        *,
        declared: Mapping[str, Any],
        capability: Mapping[str, Any],
        trusted: Callable[[], Mapping[str, int]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._serving = serving
        self._declared = declared
        self.capability = dict(capability)
        self._trusted = trusted
        self._clock = clock
        self._started = time.monotonic()
        self.changed = asyncio.Event()
        self.observed_generation = 0
        self.state = "idle"
        self.since = int(clock())
        self.previous: Release | None = None
        self.progress: dict[str, int] | None = None
        self.error: dict[str, Any] | None = None
        self.attempt = 0
        self.next_retry: int | None = None
        self.timings: list[Mapping[str, Any]] = []
        self.hub: dict[str, Any] = {"reachable": False, "error": None}

    def enter(self, state: str, *, generation: int | None = None, error: Mapping[str, Any] | None = None) -> None:
        """Move to a state; clears what belonged to the one before.

        Args:
            state: one of the fleet's.
            generation: observed from now on.
            error: what went wrong on the way here, from `error_of`.
        """
        if generation is not None:
            self.observed_generation = generation
        if state != self.state:
            self.since = int(self._clock())
        self.state = state
        self.error = None if error is None else dict(error)
        self.progress = None
        self.attempt = 0
        self.next_retry = None
        self.changed.set()

    def observe(self, generation: int) -> None:
        """Note that a generation was dealt with that changes nothing of what is shown, such as a probe."""
        self.observed_generation = generation
        self.changed.set()

    def fail(self, error: Mapping[str, Any], *, attempt: int = 0, pause_seconds: float | None = None) -> None:
        """Move to `failed`; with a pause, the same is tried again after it."""
        self.enter("failed", error=error)
        self.attempt = attempt
        self.next_retry = None if pause_seconds is None else int(self._clock() + pause_seconds) + 1

    def hub_answered(self) -> None:
        """The hub was heard of."""
        self.hub = {"reachable": True, "error": None}

    def hub_failed(self, error: ServiceError) -> None:
        """The hub was not heard of, or would not listen."""
        self.hub = {"reachable": False, "error": error_of(error, None)}

    def shown(self) -> dict[str, Any]:
        """What `/status` shows: the report, and how it stands with the hub."""
        return {**self.reported(), "hub": self.hub}

    def add_timings(self, timings: Sequence[Mapping[str, Any]]) -> None:
        """Report measurements of a probe, in the place of earlier ones of the same artifacts and settings."""
        fresh = {(row["digest"], row["batch"], row["threads"]): row for row in timings}
        kept = [row for row in self.timings if (row["digest"], row["batch"], row["threads"]) not in fresh]
        self.timings = [*kept, *timings][-TIMINGS_MAX:]
        self.changed.set()

    def reported(self) -> dict[str, Any]:
        """The body of a report."""
        current = self._serving.current
        window = None if current is None else current.window
        return {
            "observed_generation": self.observed_generation,
            "state": self.state,
            "since": self.since,
            "active": None if current is None else summary(current.release),
            "previous": None if self.previous is None else summary(self.previous),
            "progress": self.progress,
            "error": self.error,
            "attempt": self.attempt,
            "next_retry": self.next_retry,
            "declared": dict(self._declared),
            "capability": self.capability,
            "agent_version": version(),
            "trusted": dict(self._trusted()),
            "measured": {
                "requests": 0 if window is None else window.requests,
                "errors": 0 if window is None else window.errors,
                "p50_ms": None if window is None else window.percentile_ms(50.0),
                "p95_ms": None if window is None else window.percentile_ms(95.0),
                "resident_bytes": resident_bytes(),
                "uptime_seconds": int(time.monotonic() - self._started),
            },
            "timings": [dict(row) for row in self.timings],
        }


def summary(release: Release) -> dict[str, Any]:
    """A release in a report: `{"version", "digest", "params"}`."""
    return {"version": release.version, "digest": release.digest, "params": release.manifest["params"]}


def error_of(error: ServiceError, generation: int | None) -> dict[str, Any]:
    """An error in a report: `{"code", "detail", "generation"}`."""
    return {"code": error.code, "detail": error.message[:1000], "generation": generation}
