"""What the hub tells its metrics about exports and builds; the web layer implements it."""

from __future__ import annotations

from typing import Literal, Protocol

BuildOutcome = Literal["done", "failed", "cancelled"]


class JobObserver(Protocol):
    """Told of what happens to exports. Called on the event loop; must not block or raise."""

    def export_cached(self) -> None:
        """A request was answered by an artifact that is there."""
        ...

    def export_missed(self) -> None:
        """A request needs a plan, and perhaps a build."""
        ...

    def export_joined(self) -> None:
        """A request shares a build that was asked for before."""
        ...

    def build_finished(self, outcome: BuildOutcome, seconds: float) -> None:
        """A build ended after this time, waiting for a builder included."""
        ...

    def stage_finished(self, stage: str, seconds: float) -> None:
        """A stage of a build took this long; stages are `queue`, those of the manifest's `seconds`, and `store`."""
        ...

    def pending_changed(self, pending: int) -> None:
        """This many different exports wait or run now."""
        ...

    def builder_restarted(self) -> None:
        """A builder process died or was killed, and another takes its place."""
        ...


class SilentObserver:
    """A `JobObserver` that ignores everything."""

    def export_cached(self) -> None:
        """Ignores it."""

    def export_missed(self) -> None:
        """Ignores it."""

    def export_joined(self) -> None:
        """Ignores it."""

    def build_finished(self, outcome: BuildOutcome, seconds: float) -> None:
        """Ignores it."""

    def stage_finished(self, stage: str, seconds: float) -> None:
        """Ignores it."""

    def pending_changed(self, pending: int) -> None:
        """Ignores it."""

    def builder_restarted(self) -> None:
        """Ignores it."""
