"""When a device that has its size needs another one: it became slower, or so much faster that a larger size fits.

Measurements scatter, and every change of size costs an export and a switch. So a change must be clear, must last, and
growing back must wait after shrinking: a device that is busy every few minutes ends at the size that fits when it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from service.contract.sizes import CountedUnit
from service.hub.fleet.sizing.curve import Measured, Size, fit
from service.hub.fleet.sizing.search import rescaled

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
