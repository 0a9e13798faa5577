"""What the runtime reports while it works, for metrics; the default observer ignores everything."""

from __future__ import annotations

from typing import Protocol


class RuntimeObserver(Protocol):
    """Told of what happens in sessions, always on the event loop; must not block or raise."""

    def request_queued(self) -> None:
        """A request joined the queue of a session."""
        ...

    def request_left(self, queue_seconds: float) -> None:
        """A request left the queue, to be run or because its client went away."""
        ...

    def batch_run(self, n_rows: int, seconds: float) -> None:
        """ONNX Runtime ran this many rows together."""
        ...

    def sessions_changed(self, n_sessions: int, size_bytes: int) -> None:
        """This many sessions are loaded now, of artifacts of this many bytes."""
        ...


class SilentObserver:
    """An observer that nobody listens to."""

    def request_queued(self) -> None:
        """Ignored."""

    def request_left(self, queue_seconds: float) -> None:
        """Ignored."""

    def batch_run(self, n_rows: int, seconds: float) -> None:
        """Ignored."""

    def sessions_changed(self, n_sessions: int, size_bytes: int) -> None:
        """Ignored."""
