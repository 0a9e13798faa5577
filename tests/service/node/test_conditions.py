"""Failures beside a take-up: each holds until its own source is well, and none hides what was shown before."""

from __future__ import annotations

from typing import cast

import pytest

from service.node.agent.conditions import Condition, Conditions
from service.node.serving import Serving
from service.node.status import Status

HUB = Condition({"code": "hub-refused", "detail": "no", "generation": None}, attempt=2, pause_seconds=8.0)
PROBE = Condition({"code": "probe-failed", "detail": "no memory", "generation": 3})
BEFORE = {"code": "rolled-back", "detail": "too slow", "generation": 1}


class Bench:
    """A status with its doubts, and whether a take-up is on its way."""

    def __init__(self) -> None:
        # Only `reported` looks at what serves.
        self.status = Status(cast(Serving, None), declared={}, capability={}, trusted=dict, clock=lambda: 100.0)
        self.working = False
        self.doubts = Conditions(self.status, lambda: self.working)
        self.status.enter("rolled-back", generation=1, error=BEFORE)

    def shown(self) -> tuple[object, ...]:
        status = self.status
        return status.state, status.error, status.attempt, status.next_retry


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_doubt_ends_with_its_own_source(bench: Bench) -> None:
    before = bench.shown()
    bench.doubts.show("probe", PROBE)
    bench.doubts.end("hub")
    assert bench.shown() == ("failed", PROBE.error, 0, None)
    bench.doubts.end("probe")
    assert bench.shown() == before
    bench.doubts.end("probe")
    assert bench.shown() == before


@pytest.mark.parametrize("first", ["hub", "probe"])
def test_of_two_doubts_the_one_that_holds_is_shown(bench: Bench, first: str) -> None:
    before = bench.shown()
    shown = {"hub": ("failed", HUB.error, 2, 109), "probe": ("failed", PROBE.error, 0, None)}
    bench.doubts.show("hub", HUB)
    bench.doubts.show("probe", PROBE)
    assert bench.shown() == shown["probe"]
    bench.doubts.show("hub", HUB)
    assert bench.shown() == shown["hub"]
    last = "probe" if first == "hub" else "hub"
    bench.doubts.end("hub" if first == "hub" else "probe")
    assert bench.shown() == shown[last]
    bench.doubts.end("probe" if last == "probe" else "hub")
    assert bench.shown() == before


def test_a_take_up_shows_what_it_is_at(bench: Bench) -> None:
    bench.working = True
    before = bench.shown()
    bench.doubts.show("hub", HUB)
    assert bench.shown() == before
    bench.working = False
    bench.doubts.end("hub")
    assert bench.shown() == before


def test_what_began_since_is_not_undone(bench: Bench) -> None:
    bench.doubts.show("hub", HUB)
    bench.status.enter("committed", generation=4)
    bench.doubts.end("hub")
    assert bench.shown() == ("committed", None, 0, None)


def test_what_is_forgotten_does_not_come_back(bench: Bench) -> None:
    bench.doubts.show("hub", HUB)
    bench.doubts.show("probe", PROBE)
    assert bench.doubts.forget() == "rolled-back"
    bench.status.enter("failed", error=PROBE.error)
    bench.doubts.end("probe")
    assert bench.shown() == ("failed", PROBE.error, 0, None)
    assert bench.doubts.forget() == "failed"
