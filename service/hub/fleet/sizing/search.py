"""From what a device measured to the largest size that meets its budget of milliseconds or memory.

How the hub uses it, for one node and one budget. All functions are pure; sizes are counted in one unit, `unit_for`:

1. `choose_ladder(feasible)` names 12 targets at most. Export each in quality `instant` (equal for all devices, so the
   store has them after the first), put their digests, smallest first, into a probe document, and wait for the timings.
2. `measurements(rows, sizes, unit)` joins the node's `timings` with the sizes of the artifacts.
3. `target_for(limit, measured, feasible=…, unit=…)` says what to do:
   - `export`: build `target` in the wanted quality, let the device measure that artifact (a probe document with one
     rung), add the result with `corrected`, ask again. There are never more than `MAX_EXPORTS` of these.
   - `settled`: the artifact exported for `target` was measured, is within the budget, and no clearly larger one would
     be: release it. With `is_rung` the target is a rung of the ladder that fits, since none of the exports did.
   - `full`: the full network is within the budget: release it, `target` is its size.
   - `unreachable`: not even the smallest size is within the budget; `best` is what it was measured at.
4. While the node serves, it now and then measures its active artifact again (a `timings` row of the active digest, with
   the batch and threads of the budget: latencies of requests include queueing and other batches and will not do).
   `service.hub.fleet.sizing.drift` decides when that calls for another size; then `rescaled(measured, …)` gives the
   measurements to plan with, without another ladder: go on at 3.

The value compared with the limit is a measurement of the very size that is released; the fitted curve
(`service.hub.fleet.sizing.curve`) only chooses which size to try. Nothing is promised for a device whose measurements
scatter by more than the margins here, except that it ends after `MAX_EXPORTS` exports; of one size, the last
measurement counts. Where a larger network is faster than a smaller one, as channel counts that do not suit the vectors
of the processor make it in very small networks, it finds a size that fits, not the largest of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from service.contract.sizes import PERCENTILES, CountedUnit
from service.hub.fleet.sizing.curve import Curve, Measured, Size, fit

MAX_EXPORTS = 3
MAX_RUNGS = 12

# A size is taken when it has this share of the largest one that the curve lets fit.
CLOSE_ENOUGH = 0.93
# An export that misses its aim by this share of the limit shows a cliff near it: halve the interval instead.
SURPRISE = 0.06
# Where to aim, by exports already made: share of the limit, and of the largest size expected to fit. The share of the
# size keeps a flat curve from giving away much size for little time.
AIMS = ((0.97, 0.96), (0.975, 0.955), (0.96, 0.93))
# The last export, when nothing exported so far fits: it has to.
SAFE_AIM = 0.92
# Neighbouring rungs of the ladder, down to this share of the full size; a few more lie below.
RUNG_RATIO = 1.6
DENSE_SHARE = 1 / 27

Kind = Literal["export", "settled", "full", "unreachable"]


@dataclass(frozen=True)
class Decision:
    """What to do next.

    Attributes:
        kind: see the module's description.
        target: to export or release, in the unit of the search; the smallest feasible one when `unreachable`.
        best: measured value of `target` where it was measured, else what is expected of it.
        is_rung: `settled` on a rung of the ladder.
    """

    kind: Kind
    target: int
    best: float
    is_rung: bool = False


def unit_for(budget_unit: str) -> CountedUnit:
    """The unit in which sizes are searched: `macs` for `latency_ms`, `bytes` for `memory_bytes`.

    Raises:
        ValueError: the budget is none that a device measures.
    """
    if budget_unit == "latency_ms":
        return "macs"
    if budget_unit == "memory_bytes":
        return "bytes"
    raise ValueError(f"a budget in {budget_unit!r} needs no measurement; latency_ms and memory_bytes do")


def choose_ladder(feasible: tuple[int, int], *, rungs: int = MAX_RUNGS) -> list[int]:
    """Targets to measure, rising, from the smallest to the full size.

    Args:
        feasible: smallest and largest size in the unit of the search, as manifests give it.
        rungs: how many at most, at least 2.

    Returns:
        Different integers; the smallest and the largest size are always among them.
    """
    smallest, largest = feasible
    assert 1 <= smallest <= largest, "no range of sizes"
    assert rungs >= 2, "a ladder has two ends"
    if smallest == largest:
        return [largest]
    targets = {smallest, largest}
    size = largest / RUNG_RATIO
    while len(targets) < rungs and size > max(smallest * math.sqrt(RUNG_RATIO), largest * DENSE_SHARE):
        targets.add(round(size))
        size /= RUNG_RATIO
    ordered = sorted(targets)
    left = rungs - len(ordered)
    if left > 0 and ordered[1] > RUNG_RATIO * smallest:
        ratio = (ordered[1] / smallest) ** (1 / (left + 1))
        targets.update(round(smallest * ratio ** (step + 1)) for step in range(left) if ratio > 1.2)
    return sorted(targets)


def measurements(
    rows: Iterable[Mapping[str, Any]],
    sizes: Mapping[str, Size],
    budget_unit: str,
    *,
    batch: int = 1,
    threads: int = 1,
    percentile: int = 95,
) -> list[Measured]:
    """The node's `timings` as measurements of the ladder.

    Args:
        rows: `timings` as reported, each already checked to be of the right types.
        sizes: by digest, of the artifacts that were to be measured.
        budget_unit: `latency_ms` or `memory_bytes`.
        batch, threads: of the budget; rows measured otherwise are left out.
        percentile: one of `PERCENTILES`, for `latency_ms`.

    Returns:
        One per digest known, the last row counts; rows without a finite positive value are left out.
    """
    assert percentile in PERCENTILES, f"nodes report the percentiles {PERCENTILES}"
    member = f"p{percentile}_ms" if budget_unit == "latency_ms" else "resident_bytes"
    found: dict[str, Measured] = {}
    for row in rows:
        size = sizes.get(row["digest"])
        value = row.get(member)
        if size is None or (row["batch"], row["threads"]) != (batch, threads):
            continue
        if value is not None and math.isfinite(value) and value > 0:
            found[row["digest"]] = Measured(size, float(value))
    return sorted(found.values(), key=lambda one: one.size)


def corrected(measured: Sequence[Measured], *, target: int, size: Size, value: float) -> list[Measured]:
    """The measurements with that of an export added.

    Args:
        measured: so far.
        target: that was asked for; the artifact may be smaller.
        size: of the artifact.
        value: what the device measured.
    """
    return [*measured, Measured(size, value, target=target)]


def rescaled(measured: Sequence[Measured], *, size: Size, value: float) -> list[Measured]:
    """The measurements of a device that has become slower or faster, from one new measurement.

    Args:
        measured: so far; must hold one of `size`.
        size: of the artifact that was measured again.
        value: what the device measures now.

    Returns:
        All as rungs, so that a new search has its `MAX_EXPORTS`, scaled by the change at `size`.
    """
    then = [one.value for one in measured if one.size == size]
    assert then, "the size was never measured"
    factor = value / then[-1]
    return [replace(one, value=one.value * factor, target=None) for one in measured]


def target_for(limit: float, measured: Sequence[Measured], *, feasible: tuple[int, int], unit: CountedUnit) -> Decision:
    """What to do next for a budget; see the module's description.

    Args:
        limit: milliseconds or bytes, positive.
        measured: the ladder and the exports so far, in the order of measurement.
        feasible: smallest and largest size in `unit`.
        unit: from `unit_for`.
    """
    assert measured, "nothing was measured"
    n_exports = sum(one.target is not None for one in measured)
    known = _newest(measured, unit)
    fitting = [one for one in known if one.value <= limit]
    if not fitting:
        return _none_fits(known, n_exports, feasible=feasible, unit=unit)
    low = fitting[-1]
    if low.reach(unit) >= feasible[1]:
        return Decision("full", feasible[1], low.value)
    curve = fit(known, feasible=feasible, unit=unit)
    as_expected = low.value >= (AIMS[0][0] - SURPRISE) * limit
    is_found = low.target is not None and as_expected and _share(low, curve, limit, unit) >= CLOSE_ENOUGH
    if n_exports < MAX_EXPORTS and not is_found:
        target = _next_target(limit, measured, curve, low=low, feasible=feasible, unit=unit)
        if target is not None:
            return Decision("export", target, curve.value(target))
    return Decision("settled", low.reach(unit), low.value, is_rung=low.target is None)


def _newest(measured: Sequence[Measured], unit: CountedUnit) -> list[Measured]:
    """The last measurement of every size, smallest first, with the largest target that led to it."""
    found: dict[int, Measured] = {}
    for one in measured:
        size = one.size.of(unit)
        before = found.get(size)
        targets = [other.target for other in (before, one) if other is not None and other.target is not None]
        found[size] = replace(one, target=max(targets, default=None))
    return [found[size] for size in sorted(found)]


def _share(low: Measured, curve: Curve, limit: float, unit: CountedUnit) -> float:
    """A size, relative to the largest expected to be within the limit."""
    return low.size.of(unit) / curve.largest(limit)


def _none_fits(known: Sequence[Measured], n_exports: int, *, feasible: tuple[int, int], unit: CountedUnit) -> Decision:
    """Nothing measured is within the limit: the smallest size was not measured yet, or there is no way."""
    least = known[0]
    tried = least.size.of(unit) <= feasible[0] or least.target == feasible[0]
    if tried or n_exports >= MAX_EXPORTS:
        return Decision("unreachable", feasible[0], least.value)
    return Decision("export", feasible[0], fit(known, feasible=feasible, unit=unit).value(feasible[0]))


def _next_target(
    limit: float,
    measured: Sequence[Measured],
    curve: Curve,
    *,
    low: Measured,
    feasible: tuple[int, int],
    unit: CountedUnit,
) -> int | None:
    """The size to try next, above what is known to fit and below what is known not to; None when nothing lies there.

    A rung of the ladder that fits may be the one to try, since its artifact has another quality.
    """
    exports = [one for one in measured if one.target is not None]
    if len(exports) == MAX_EXPORTS - 1 and low.target is None:
        aim = curve.largest(limit * SAFE_AIM)
    else:
        of_limit, of_size = AIMS[len(exports)]
        aim = max(curve.largest(limit * of_limit), of_size * curve.largest(limit))
    above = [one.size.of(unit) for one in measured if one.value > limit and one.size.of(unit) > low.reach(unit)]
    end = min(above, default=feasible[1] + 1)
    if exports and above and abs(exports[-1].value / limit - AIMS[0][0]) > SURPRISE:
        aim = math.sqrt(low.reach(unit) * end)
    target = min(math.floor(aim), end - 1)
    if target > low.reach(unit):
        return target
    return low.size.of(unit) if low.target is None else None
