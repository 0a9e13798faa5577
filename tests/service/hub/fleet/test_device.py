"""Searches for the largest size within a budget that the device measures, against devices whose curve is known."""

from __future__ import annotations

import bisect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.hub.fleet.documents import Budget
from service.hub.fleet.sizing import budget_search as device
from service.hub.fleet.sizing.search import MAX_EXPORTS, choose_ladder

SIZES = list(range(1_000, 100_001, 500))
"""Every size that the made-up network has, in MACs."""


def manifest(macs: int, quality: str = "instant") -> dict[str, object]:
    return {
        "digest": f"sha256:{macs:063x}{len(quality) % 10}",
        "macs": macs,
        "params": macs // 2,
        "bytes": 2 * macs + 400,
    }


def export(target: float) -> int:
    """The largest size within a target."""
    return SIZES[max(0, bisect.bisect_right(SIZES, target) - 1)]


def rows(ladder: list[dict[str, object]], latency: float, overhead: float) -> list[dict[str, object]]:
    return [
        {"digest": one["digest"], "batch": 1, "threads": 1, "p50_ms": 0.1, "p95_ms": overhead + latency * one["macs"]}
        for one in ladder
    ]


@settings(max_examples=80, deadline=None)
@given(st.floats(1e-5, 1e-3), st.floats(0.01, 5.0), st.floats(0.05, 60.0))
def test_the_search_ends_within_the_budget_and_close_to_the_largest_size(
    latency: float, overhead: float, limit: float
) -> None:
    budget = Budget(unit="latency_ms", value=limit)
    feasible = {"min": SIZES[0], "max": SIZES[-1]}
    search = device.new_search(
        budget, feasible, [manifest(export(target)) for target in choose_ladder((SIZES[0], SIZES[-1]))]
    )
    n_exports = 0
    while True:
        missing = device.unmeasured(search)
        if missing:
            search = device.with_timings(search, budget, rows(missing, latency, overhead))
            continue
        decision = device.decide(search, budget)
        if decision.kind != "export":
            break
        n_exports += 1
        search = device.with_export(search, manifest(export(decision.target), "refined"), decision.target)
    assert n_exports <= MAX_EXPORTS
    fitting = [size for size in SIZES if overhead + latency * size <= limit]
    if not fitting:
        assert decision.kind == "unreachable"
        return
    size = export(decision.target)
    assert overhead + latency * size <= limit
    assert size >= 0.9 * fitting[-1] - 500


def test_timings_of_other_batches_threads_and_artifacts_do_not_count() -> None:
    budget = Budget(unit="latency_ms", value=5, batch=4, threads=2)
    search = device.new_search(budget, {"min": 1, "max": 9}, [manifest(1000), manifest(1000), manifest(2000)])
    assert [one["macs"] for one in device.unmeasured(search)] == [1000, 2000]
    wrong = rows(device.unmeasured(search), 1e-3, 0.1)
    assert device.unmeasured(device.with_timings(search, budget, wrong)) == device.unmeasured(search)
    right = [{**row, "batch": 4, "threads": 2} for row in wrong]
    others = [{**right[0], "digest": "sha256:" + "9" * 64}]
    assert device.unmeasured(device.with_timings(search, budget, [*others, right[0]])) == device.unmeasured(search)[1:]


def test_a_value_that_is_known_stays() -> None:
    budget = Budget(unit="latency_ms", value=5)
    search = device.new_search(budget, {"min": 1, "max": 9}, [manifest(1000)])
    first = device.with_timings(search, budget, rows(device.unmeasured(search), 1e-3, 0.0))
    again = device.with_timings(first, budget, rows(search["rungs"], 1.0, 0.0))
    assert [one.value for one in device.measured(again)] == [pytest.approx(1.0)]


def test_memory_is_searched_in_bytes() -> None:
    budget = Budget(unit="memory_bytes", value=100_000)
    search = device.new_search(budget, {"min": 2400, "max": 9000}, [manifest(1000)])
    assert search["unit"] == "bytes"
    measured = [{**rows(search["rungs"], 1.0, 0.0)[0], "resident_bytes": 50_000}]
    assert [one.value for one in device.measured(device.with_timings(search, budget, measured))] == [50_000]


def test_what_a_device_could_not_measure_is_left_out_or_counts_as_too_large() -> None:
    budget = Budget(unit="latency_ms", value=5)
    search = device.new_search(budget, {"min": 1, "max": 9}, [manifest(1000), manifest(90_000)])
    search = device.with_timings(search, budget, rows(search["rungs"][:1], 1e-3, 0.0))
    search = device.with_export(search, manifest(5000, "refined"), 5100)
    ended = device.without_unmeasured(search, budget)
    assert device.unmeasured(ended) == []
    assert [(one.size.macs, one.value) for one in device.measured(ended)] == [(1000, pytest.approx(1.0)), (5000, 50.0)]
