"""When a device that has its size needs another one: it became slower, or so much faster that a larger size fits.

Measurements scatter, and every change of size costs an export and a switch. So a change must be clear, must last, and
growing back must wait after shrinking: a device that is busy every few minutes ends at the size that fits when it is.

What was observed is kept in memory: a hub that starts again observes anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from service.contract.sizes import CountedUnit
from service.hub.fleet.documents import Budget
from service.hub.fleet.records import Generation, Node
from service.hub.fleet.sizing import budget_search as device
from service.hub.fleet.sizing.curve import Measured, Size, fit
from service.hub.fleet.sizing.search import measurements, rescaled

# A measurement above this share of the limit is too slow; sizes are chosen to be a few percent below it.
TOO_SLOW = 1.10
# A size this much larger than the active one must be expected to fit.
WORTH_GROWING = 1.25
SLOW_SECONDS = 60.0
FAST_SECONDS = 600.0
LEAST_OBSERVATIONS = 3
REST_SECONDS = 3600.0
"""For how long a device does not grow after it had to shrink."""

Verdict = Literal["steady", "shrink", "grow"]


@dataclass(frozen=True)
class Drift:
    """What was observed of the active size of a node; a new one with every release.

    Attributes:
        slow_since, fast_since: seconds, of the first of the observations in a row that call for a change.
        count: how many there are in that row.
        rests_until: seconds; no growing before.
    """

    slow_since: float | None = None
    fast_since: float | None = None
    count: int = 0
    rests_until: float = 0.0


def observe(drift: Drift, *, value: float, limit: float, growth: float, now: float) -> tuple[Drift, Verdict]:
    """Take in one measurement of the active artifact.

    Args:
        drift: so far.
        value: measured now, as the budget measures it.
        limit: the budget.
        growth: from `growth_of`; 1 for the full network, which cannot grow.
        now: seconds; never falling.

    Returns:
        What to go on with, and whether to plan anew: `shrink` and `grow` both mean `target_for` on the measurements
        `rescaled` by this one. After that, go on with `replanned`.
    """
    if value > TOO_SLOW * limit:
        since = now if drift.slow_since is None else drift.slow_since
        count = 1 if drift.slow_since is None else drift.count + 1
        is_clear = count >= LEAST_OBSERVATIONS and now - since >= SLOW_SECONDS
        return Drift(since, None, count, drift.rests_until), "shrink" if is_clear else "steady"
    if value <= limit and growth >= WORTH_GROWING:
        since = now if drift.fast_since is None else drift.fast_since
        count = 1 if drift.fast_since is None else drift.count + 1
        is_clear = count >= LEAST_OBSERVATIONS and now - since >= FAST_SECONDS and now >= drift.rests_until
        return Drift(None, since, count, drift.rests_until), "grow" if is_clear else "steady"
    return Drift(rests_until=drift.rests_until), "steady"


def replanned(drift: Drift, verdict: Verdict, *, now: float) -> Drift:
    """What to go on with once a verdict has led to another size."""
    rests_until = now + REST_SECONDS if verdict == "shrink" else drift.rests_until
    return replace(Drift(), rests_until=rests_until)


def growth_of(
    measured: Sequence[Measured],
    *,
    size: Size,
    value: float,
    limit: float,
    feasible: tuple[int, int],
    unit: CountedUnit,
) -> float:
    """The largest size expected to fit, relative to the active one.

    Args:
        measured: what the active size was chosen by; must hold one of `size`.
        size: of the active artifact.
        value: measured of it now.
        limit, feasible, unit: as of `target_for`.
    """
    curve = fit(rescaled(measured, size=size, value=value), feasible=feasible, unit=unit)
    return curve.largest(limit) / size.of(unit)


@dataclass(frozen=True)
class _Observed:
    """What was seen of one generation; `row` is the measurement that came last."""

    number: int
    drift: Drift
    row: tuple[Any, ...] | None = None


class DriftWatch:
    """Observes nodes. Belongs to one event loop.

    Args:
        clock: seconds, never falling.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._observed: dict[str, _Observed] = {}

    def forget(self, name: str) -> None:
        """Drops what was observed of a node."""
        self._observed.pop(name, None)

    def observe(self, node: Node) -> device.Search | None:
        """Takes in the latest report of a node.

        Returns:
            A search to go on with when the node needs another size, else None.
        """
        current, report = node.current, node.reported
        if current is None or report is None or current.search is None or current.committed is None:
            return None
        before = self._observed.get(node.name)
        if before is None or before.number != current.number:
            rests_until = 0.0 if before is None else before.drift.rests_until
            before = self._observed[node.name] = _Observed(current.number, Drift(rests_until=rests_until))
        rows = [timing.model_dump() for timing in report.timings if timing.digest == current.digest]
        size = _size_of(current)
        value = _value(rows, size, current.desired.budget)
        if size is None or value is None:
            return None
        row = tuple(rows[-1].values())
        if row == before.row:
            return None  # an old measurement, reported again
        if before.row is None:
            # The first one belongs to the time before this generation was kept.
            self._observed[node.name] = _Observed(current.number, before.drift, row)
            return None
        return self._judge(node, current, before, row=row, size=size, value=value)

    def _judge(
        self,
        node: Node,
        current: Generation,
        before: _Observed,
        *,
        row: tuple[Any, ...],
        size: Size,
        value: float,
    ) -> device.Search | None:
        assert current.search is not None, "the caller looked"
        search, limit, now = dict(current.search), float(current.desired.budget.value), self._clock()
        known = _with_size(device.measured(search), size, search)
        low, high = search["feasible"]
        unit = device.unit_of(search)
        growth = growth_of(known, size=size, value=value, limit=limit, feasible=(low, high), unit=unit)
        drift, verdict = observe(before.drift, value=value, limit=limit, growth=growth, now=now)
        if verdict == "steady":
            self._observed[node.name] = _Observed(current.number, drift, row)
            return None
        self._observed[node.name] = _Observed(current.number, replanned(drift, verdict, now=now), row)
        then = [one.value for one in known if one.size == size][-1]
        rungs = {
            one["digest"]: {**one, "target": None, "value": one["value"] * value / then}
            for one in search["rungs"]
            if one["value"] is not None
        }
        return {**search, "rungs": list(rungs.values())}


def _size_of(generation: Generation) -> Size | None:
    if generation.kind != "release" or generation.content is None:
        return None
    manifest: Mapping[str, Any] = generation.content["manifest"]
    return Size(macs=manifest["macs"], params=manifest["params"], bytes=manifest["bytes"])


def _value(rows: Sequence[Mapping[str, Any]], size: Size | None, budget: Budget) -> float | None:
    if not rows or size is None or not budget.is_measured:
        return None
    found = measurements(
        rows,
        {rows[-1]["digest"]: size},
        budget.unit,
        batch=budget.batch,
        threads=budget.threads,
        percentile=budget.percentile,
    )
    return found[-1].value if found else None


def _with_size(known: Sequence[Measured], size: Size, search: Mapping[str, Any]) -> list[Measured]:
    """The measurements, with one of this very size: the released artifact may be a rung in another quality."""
    if any(one.size == size for one in known):
        return list(known)
    expected = search.get("release", {}).get("expected")
    return [*known, Measured(size, float(expected))] if expected else [*known, Measured(size, known[-1].value)]
