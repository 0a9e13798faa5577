"""A device that becomes slower or much faster gets another size; one that is steady, or repeats itself, does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.hub.fleet.documents import Budget, Desired
from service.hub.fleet.records import Generation, Node
from service.hub.fleet.sizing import budget_search as device
from service.hub.fleet.sizing.drift import FAST_SECONDS, SLOW_SECONDS, DriftWatch
from tests.service.hub.fleet.parts import Clock, reported
from tests.service.hub.fleet.test_device import manifest, rows
from tests.service.hub.fleet.test_signing import SELF_TEST

BUDGET = Budget(unit="latency_ms", value=10.0)
ACTIVE = 9_000


def serving() -> Node:
    """A node that keeps a size of 9,000 MACs at a millisecond for each 1,000 of them."""
    search = device.new_search(BUDGET, {"min": 1000, "max": 100_000}, [manifest(size) for size in (1000, 5000, 20_000)])
    search = device.with_timings(search, BUDGET, rows(search["rungs"], 1e-3, 0.0))
    search = device.with_export(search, manifest(ACTIVE, "refined"), ACTIVE)
    search = device.with_timings(search, BUDGET, rows(search["rungs"], 1e-3, 0.0))
    assert device.decide(search, BUDGET).kind in ("settled", "export")
    full = {**manifest(ACTIVE, "refined"), "model": "toy"}
    generation = Generation(
        number=3,
        root=1,
        kind="release",
        origin="planned",
        desired=Desired(model="toy", budget=BUDGET),
        rollback=False,
        created=0.0,
        content={"manifest": full, "self_test": SELF_TEST},
        search=search,
        committed=1.0,
    )
    return Node("a", "key", {}, {}, 0.0, 0.0, 3, generation)


def measure(node: Node, value: float, runs: int) -> None:
    assert node.current is not None
    row = {"digest": node.current.digest, "batch": 1, "threads": 1, "p50_ms": 1.0, "p95_ms": value, "runs": runs}
    node.reported = reported("committed", node.current, timings=[row])


def observed(node: Node, values: list[float], *, seconds: float) -> list[device.Search | None]:
    clock = Clock()
    watch = DriftWatch(clock)
    found = []
    for number, value in enumerate(values):
        clock.now += seconds
        measure(node, value, number)
        found.append(watch.observe(node))
    return found


def test_a_device_that_became_slower_gets_a_smaller_size() -> None:
    found = observed(serving(), [9.0, 18.0, 18.0, 18.0, 18.0], seconds=SLOW_SECONDS)
    (search,) = [one for one in found if one is not None]
    decision = device.decide(search, BUDGET)
    assert decision.kind == "export"
    assert 0.9 * 5000 <= decision.target <= 5000


def test_a_device_that_became_much_faster_gets_a_larger_size() -> None:
    found = observed(serving(), [9.0] + [3.0] * 6, seconds=FAST_SECONDS / 2)
    search = next(one for one in found if one is not None)
    decision = device.decide(search, BUDGET)
    assert decision.kind == "export"
    assert 0.9 * 30_000 <= decision.target <= 30_000


@pytest.mark.parametrize("values", [[9.0, 9.5, 10.5, 9.0, 9.2] * 3, [9.0, 18.0, 9.0, 18.0, 9.0], [9.0] * 10])
def test_noise_changes_nothing(values: list[float]) -> None:
    assert observed(serving(), values, seconds=SLOW_SECONDS) == [None] * len(values)


def test_one_measurement_that_is_reported_again_and_again_counts_once() -> None:
    node, clock = serving(), Clock()
    watch = DriftWatch(clock)
    for number, value in enumerate((9.0, 18.0)):
        measure(node, value, number)
        for _ in range(20):
            clock.now += SLOW_SECONDS
            assert watch.observe(node) is None


def test_nothing_is_concluded_before_the_size_is_kept() -> None:
    node = serving()
    assert node.current is not None
    node.current = replace(node.current, committed=None)
    assert observed(node, [9.0] + [18.0] * 6, seconds=SLOW_SECONDS) == [None] * 7
