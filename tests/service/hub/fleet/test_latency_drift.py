"""Another size is planned for a change that is clear and lasts, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.hub.fleet.sizing.curve import Measured, Size
from service.hub.fleet.sizing.drift import (
    FAST_SECONDS,
    REST_SECONDS,
    SLOW_SECONDS,
    TOO_SLOW,
    WORTH_GROWING,
    Drift,
    Verdict,
    growth_of,
    observe,
    replanned,
)

LIMIT = 10.0


def follow(drift: Drift, values: list[tuple[float, float, float]]) -> tuple[Drift, list[Verdict]]:
    """Observe `(now, value, growth)` one after the other."""
    verdicts: list[Verdict] = []
    for now, value, growth in values:
        drift, verdict = observe(drift, value=value, limit=LIMIT, growth=growth, now=now)
        verdicts.append(verdict)
    return drift, verdicts


def test_too_slow_for_long_enough_shrinks() -> None:
    slow = 1.2 * LIMIT
    _, verdicts = follow(Drift(), [(0, slow, 0.8), (SLOW_SECONDS / 2, slow, 0.8), (SLOW_SECONDS, slow, 0.8)])
    assert verdicts == ["steady", "steady", "shrink"]


def test_one_slow_measurement_after_a_long_pause_changes_nothing() -> None:
    slow = 1.2 * LIMIT
    _, verdicts = follow(Drift(), [(0, slow, 0.8), (10 * SLOW_SECONDS, slow, 0.8)])
    assert verdicts == ["steady", "steady"]


def test_a_measurement_in_bounds_starts_the_count_again() -> None:
    slow = 1.2 * LIMIT
    moments = [(0, slow, 0.8), (40, slow, 0.8), (50, LIMIT, 1.0), (70, slow, 0.8), (90, slow, 0.8)]
    _, verdicts = follow(Drift(), moments)
    assert set(verdicts) == {"steady"}


def test_much_faster_for_long_enough_grows() -> None:
    fast = 0.5 * LIMIT
    _, verdicts = follow(Drift(), [(0, fast, 1.9), (FAST_SECONDS / 2, fast, 1.9), (FAST_SECONDS, fast, 1.9)])
    assert verdicts == ["steady", "steady", "grow"]


def test_a_device_that_shrank_rests_before_it_grows() -> None:
    drift = replanned(Drift(), "shrink", now=0.0)
    fast = 0.5 * LIMIT
    moments = [(step * FAST_SECONDS, fast, 1.9) for step in range(int(REST_SECONDS / FAST_SECONDS))]
    drift, verdicts = follow(drift, moments)
    assert set(verdicts) == {"steady"}
    _, verdicts = follow(drift, [(REST_SECONDS, fast, 1.9)])
    assert verdicts == ["grow"]


@given(
    st.lists(
        st.tuples(st.floats(0.5, TOO_SLOW), st.floats(0.5, WORTH_GROWING, exclude_max=True)), min_size=1, max_size=30
    )
)
def test_within_the_bounds_nothing_ever_happens(observed: list[tuple[float, float]]) -> None:
    moments = [(1000.0 * step, LIMIT * value, growth) for step, (value, growth) in enumerate(observed)]
    _, verdicts = follow(Drift(), moments)
    assert set(verdicts) == {"steady"}


@given(st.lists(st.booleans(), min_size=2, max_size=200))
def test_a_device_that_comes_and_goes_changes_at_most_twice_an_hour(busy: list[bool]) -> None:
    """However the load swings, growing needs an hour since the last shrinking, and shrinking something that grew."""
    drift, grown = Drift(), 0
    for step, is_busy in enumerate(busy):
        now = 120.0 * step
        value, growth = (1.5 * LIMIT, 0.6) if is_busy else (0.5 * LIMIT, 1.9)
        drift, verdict = observe(drift, value=value, limit=LIMIT, growth=growth, now=now)
        if verdict != "steady":
            drift = replanned(drift, verdict, now=now)
            grown += verdict == "grow" and drift.rests_until > 0
    assert grown <= 1 + 120.0 * len(busy) / REST_SECONDS * REST_SECONDS / FAST_SECONDS


def test_growth_is_how_much_larger_a_size_would_fit_now() -> None:
    def size_of(macs: int) -> Size:
        return Size(macs=macs, params=macs // 30, bytes=macs // 8)

    rungs = [Measured(size_of(macs), 1e-6 * macs) for macs in (100_000, 1_000_000, 5_000_000, 20_000_000)]
    active = size_of(5_000_000)
    feasible = (100_000, 20_000_000)
    unchanged = growth_of(rungs, size=active, value=5.0, limit=5.0, feasible=feasible, unit="macs")
    assert unchanged == pytest.approx(1.0, rel=0.01)
    twice_as_fast = growth_of(rungs, size=active, value=2.5, limit=5.0, feasible=feasible, unit="macs")
    assert twice_as_fast == pytest.approx(2.0, rel=0.01)
    full = growth_of(rungs, size=rungs[-1].size, value=1.0, limit=5.0, feasible=feasible, unit="macs")
    assert full == pytest.approx(1.0)
