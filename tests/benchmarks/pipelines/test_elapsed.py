"""Seconds of a training add up over its processes, and those of another training are never taken for its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pipelines import elapsed
from benchmarks.pipelines.elapsed import Elapsed
from inn_core.progress import no_progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The one number in it is the time."""
    now = [100.0]
    monkeypatch.setattr(elapsed.time, "perf_counter", lambda: now[0])
    return now


def test_seconds_before_a_stop_count(clock: list[float], tmp_path: Path) -> None:
    state = tmp_path / "run.pt"
    first = Elapsed(state)
    report = first.noting(no_progress)
    clock[0] += elapsed.SAVE_SECONDS + 1
    report("step", 0.5)
    clock[0] += 2
    report("step", 0.6)  # too soon to be noted
    assert first.seconds == elapsed.SAVE_SECONDS + 3
    state.touch()
    clock[0] = 7.0
    second = Elapsed(state)
    clock[0] += 10
    assert second.seconds == elapsed.SAVE_SECONDS + 11


def test_the_end_is_always_noted_and_told_on(clock: list[float], tmp_path: Path) -> None:
    state = tmp_path / "run.pt"
    told: list[tuple[str, float]] = []
    report = Elapsed(state).noting(lambda stage, share: told.append((stage, share)))
    clock[0] += 2
    report("last", 1.0)
    assert told == [("last", 1.0)]
    state.touch()
    assert Elapsed(state).seconds == 2.0


def test_without_a_state_the_time_begins_at_zero(clock: list[float], tmp_path: Path) -> None:
    report = Elapsed(tmp_path / "run.pt").noting(no_progress)
    clock[0] += 2
    report("last", 1.0)
    assert Elapsed(tmp_path / "run.pt").seconds == 0.0
