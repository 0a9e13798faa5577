"""The search for the largest size within a budget, on simulated devices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.hub.fleet.sizing.curve import Measured, Size
from service.hub.fleet.sizing.search import (
    MAX_EXPORTS,
    MAX_RUNGS,
    Decision,
    choose_ladder,
    corrected,
    measurements,
    rescaled,
    target_for,
    unit_for,
)

SMALLEST, LARGEST = 11_000, 22_000_000
FEASIBLE = (SMALLEST, LARGEST)
CLOSE = 0.9
EXAMPLES = settings(max_examples=30, deadline=None)


def size_of(macs: float) -> Size:
    share = macs / LARGEST
    return Size(macs=int(macs), params=max(150, int(700_000 * share)), bytes=5_000 + int(2_800_000 * share**1.05))


@dataclass(frozen=True)
class Device:
    """Latency = overhead + per_mac * macs^power + per_byte * bytes, with steps and one cliff, in milliseconds."""

    overhead: float = 0.2
    per_mac: float = 1e-6
    per_byte: float = 0.0
    power: float = 1.0
    step: float = 1.0
    cliff: float = math.inf
    fall: float = 1.0

    def latency(self, size: Size) -> float:
        macs = float(size.macs)
        if self.step > 1.0:
            macs = self.step ** math.ceil(math.log(macs) / math.log(self.step))
        value = self.overhead + self.per_mac * macs**self.power + self.per_byte * size.bytes
        return value * (self.fall if size.macs > self.cliff else 1.0)

    def largest(self, limit: float) -> float:
        """The largest size within a limit, by trying very many."""
        fitting = [macs for macs in np.geomspace(SMALLEST, LARGEST, 1000) if self.latency(size_of(macs)) <= limit]
        return max(fitting, default=0.0)

    def limit(self, share: float) -> float:
        """A budget between what the smallest and what the full size takes."""
        low, high = self.latency(size_of(SMALLEST)), self.latency(size_of(LARGEST))
        return low * (high / low) ** share


def search(
    observe: Callable[[Size], float], limit: float, *, plan: Callable[[int], int] = lambda target: target
) -> tuple[Decision, list[Measured]]:
    """What hub and node do; `plan` is the size that a target ends in. Fails when it takes too many exports."""
    ladder = sorted({plan(target) for target in choose_ladder(FEASIBLE)})
    measured = [Measured(size_of(macs), observe(size_of(macs))) for macs in ladder]
    for exports in range(MAX_EXPORTS + 1):
        decision = target_for(limit, measured, feasible=FEASIBLE, unit="macs")
        if decision.kind != "export":
            return decision, measured
        assert exports < MAX_EXPORTS, "too many exports"
        assert SMALLEST <= decision.target <= LARGEST
        size = size_of(plan(decision.target))
        measured = corrected(measured, target=decision.target, size=size, value=observe(size))
    raise AssertionError("the search did not end")


def value_of(decision: Decision, measured: list[Measured]) -> float:
    """What was measured, last, of the size that was settled on."""
    return [one.value for one in measured if decision.target in (one.target, one.size.macs)][-1]


smooth = st.builds(
    Device,
    overhead=st.floats(0.0, 3.0),
    per_mac=st.floats(1e-7, 3e-6),
    per_byte=st.sampled_from([0.0, 1e-7, 1e-6]),
    power=st.floats(0.85, 1.05),
)
shares = st.floats(0.05, 0.95)


@EXAMPLES
@given(smooth, shares)
def test_a_smooth_device_gets_nearly_the_largest_size_within_its_budget(device: Device, share: float) -> None:
    limit = device.limit(share)
    decision, measured = search(device.latency, limit)
    assert decision.kind == "settled"
    assert value_of(decision, measured) <= limit
    assert decision.target >= CLOSE * device.largest(limit)


@EXAMPLES
@given(smooth, shares, st.integers(0, 1000), st.floats(0.0, 0.02))
def test_noise_costs_no_more_than_itself(device: Device, share: float, seed: int, noise: float) -> None:
    random = np.random.default_rng(seed)
    limit = device.limit(share)
    decision, measured = search(lambda size: device.latency(size) * (1 + random.uniform(-noise, noise)), limit)
    assert decision.kind in ("settled", "full", "unreachable")
    if decision.kind == "unreachable":
        assert limit * (1 - noise) <= device.latency(size_of(SMALLEST)) * (1 + noise)
        return
    assert value_of(decision, measured) <= limit
    assert device.latency(size_of(decision.target)) <= limit * (1 + noise) / (1 - noise)
    assert decision.target >= CLOSE * device.largest(limit * (1 - 3 * noise))


@EXAMPLES
@given(smooth, shares, st.floats(1.02, 1.08))
def test_steps_cost_at_most_one_step(device: Device, share: float, step: float) -> None:
    stepped = Device(device.overhead, device.per_mac, device.per_byte, device.power, step=step)
    limit = stepped.limit(share)
    decision, measured = search(stepped.latency, limit)
    assert decision.kind == "settled"
    assert value_of(decision, measured) <= limit
    assert decision.target >= CLOSE / step * stepped.largest(limit)


@EXAMPLES
@given(smooth, shares, st.floats(2e4, 2e7), st.floats(1.1, 2.5))
def test_a_cliff_never_leads_over_the_budget_nor_below_a_rung_that_fits(
    device: Device, share: float, cliff: float, fall: float
) -> None:
    steep = Device(device.overhead, device.per_mac, device.per_byte, device.power, cliff=cliff, fall=fall)
    limit = steep.limit(share)
    decision, measured = search(steep.latency, limit)
    assert decision.kind == "settled"
    assert value_of(decision, measured) <= limit
    rungs = [target for target in choose_ladder(FEASIBLE) if steep.latency(size_of(target)) <= limit]
    assert decision.target >= max(rungs)


@EXAMPLES
@given(smooth, shares, st.floats(1.05, 1.5))
def test_few_possible_sizes_end_in_one_that_fits(device: Device, share: float, ratio: float) -> None:
    """Multiples of eight leave few sizes: many targets end in the same one."""

    def plan(target: int) -> int:
        if target >= LARGEST:
            return LARGEST
        return max(SMALLEST, int(SMALLEST * ratio ** math.floor(math.log(target / SMALLEST) / math.log(ratio) + 1e-9)))

    limit = device.limit(share)
    decision, measured = search(device.latency, limit, plan=plan)
    assert decision.kind == "settled"
    assert device.latency(size_of(plan(decision.target))) <= limit
    # Not even the next size but two would fit.
    assert plan(decision.target) * ratio**3 >= CLOSE * device.largest(limit)
    assert sum(one.target is not None for one in measured) <= MAX_EXPORTS


@EXAMPLES
@given(st.lists(st.floats(0.01, 100.0), min_size=20, max_size=20), st.floats(0.005, 200.0))
def test_a_device_that_measures_anything_at_all_ends_within_its_budget(values: list[float], limit: float) -> None:
    left = iter(values)
    decision, measured = search(lambda size: next(left), limit)
    if decision.kind == "unreachable":
        newest = {one.size: one.value for one in measured}
        assert min(newest.values()) > limit
    else:
        assert value_of(decision, measured) <= limit


def test_a_budget_below_the_smallest_size_is_unreachable_and_says_what_that_takes() -> None:
    device = Device(overhead=2.0)
    decision, measured = search(device.latency, 1.0)
    assert decision == Decision("unreachable", SMALLEST, device.latency(size_of(SMALLEST)))
    assert all(one.target is None for one in measured)


def test_a_budget_above_the_full_size_gives_it_without_an_export() -> None:
    device = Device()
    decision, measured = search(device.latency, 1000.0)
    assert (decision.kind, decision.target) == ("full", LARGEST)
    assert all(one.target is None for one in measured)


def test_a_ladder_whose_larger_rungs_could_not_be_measured_is_used_as_it_is() -> None:
    device = Device()
    rungs = [Measured(size_of(target), device.latency(size_of(target))) for target in choose_ladder(FEASIBLE)[:6]]
    decision = target_for(9.0, rungs, feasible=FEASIBLE, unit="macs")
    assert decision.kind == "export"
    assert rungs[-1].size.macs < decision.target
    assert device.latency(size_of(decision.target)) == pytest.approx(9.0, rel=0.1)


def test_an_unmeasured_smallest_size_is_tried_before_giving_up() -> None:
    rungs = [Measured(size_of(1_000_000), 5.0)]
    decision = target_for(1.0, rungs, feasible=FEASIBLE, unit="macs")
    assert (decision.kind, decision.target) == ("export", SMALLEST)
    tried = corrected(rungs, target=SMALLEST, size=size_of(SMALLEST), value=2.0)
    assert target_for(1.0, tried, feasible=FEASIBLE, unit="macs") == Decision("unreachable", SMALLEST, 2.0)


def test_a_slower_device_gets_a_smaller_size_without_another_ladder() -> None:
    device, slower = Device(), Device(overhead=0.4, per_mac=2e-6)
    limit = 10.0
    decision, measured = search(device.latency, limit)
    active = size_of(decision.target)
    known = rescaled(measured, size=active, value=slower.latency(active))
    assert all(one.target is None for one in known)
    for _ in range(MAX_EXPORTS):
        decision = target_for(limit, known, feasible=FEASIBLE, unit="macs")
        if decision.kind != "export":
            break
        size = size_of(decision.target)
        known = corrected(known, target=decision.target, size=size, value=slower.latency(size))
    assert decision.kind == "settled"
    assert CLOSE * slower.largest(limit) <= decision.target <= slower.largest(limit)


@given(st.integers(1, 10**12), st.integers(0, 10**12), st.integers(2, MAX_RUNGS))
def test_a_ladder_rises_from_the_smallest_to_the_largest_size(smallest: int, span: int, rungs: int) -> None:
    ladder = choose_ladder((smallest, smallest + span), rungs=rungs)
    assert ladder == sorted(set(ladder))
    assert (ladder[0], ladder[-1]) == (smallest, smallest + span)
    assert len(ladder) <= rungs


def test_timings_of_other_settings_and_other_artifacts_are_left_out() -> None:
    sizes = {"a": size_of(1e5), "b": size_of(1e6)}
    row = {"digest": "a", "batch": 1, "threads": 1, "p50_ms": 1.0, "p95_ms": 2.0, "runs": 9, "resident_bytes": 7}
    rows = [
        row | {"digest": "b", "p95_ms": 4.0},
        row | {"p95_ms": 1.5},
        row,
        row | {"batch": 2, "p95_ms": 50.0},
        row | {"threads": 4, "p95_ms": 50.0},
        row | {"digest": "c", "p95_ms": 50.0},
        row | {"digest": "b", "p95_ms": math.inf},
    ]
    assert measurements(rows, sizes, "latency_ms") == [Measured(sizes["a"], 2.0), Measured(sizes["b"], 4.0)]
    assert [one.value for one in measurements(rows, sizes, "latency_ms", percentile=50)] == [1.0, 1.0]
    assert [one.value for one in measurements(rows, sizes, "memory_bytes")] == [7.0, 7.0]


def test_only_budgets_that_a_device_measures_have_a_unit() -> None:
    assert (unit_for("latency_ms"), unit_for("memory_bytes")) == ("macs", "bytes")
    with pytest.raises(ValueError, match="needs no measurement"):
        unit_for("params")
