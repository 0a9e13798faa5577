"""How long-running operations report progress: a function of a stage name and the finished share of the whole."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]


def no_progress(stage: str, fraction: float) -> None:
    """Ignore the report."""


def scaled(progress: Progress, start: float, end: float) -> Progress:
    """A progress whose 0..1 fills only `start..end` of the given one."""
    return lambda stage, fraction: progress(stage, start + (end - start) * min(max(fraction, 0.0), 1.0))
