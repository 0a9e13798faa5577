"""Budgets that only the device can measure: what was exported and measured so far, as one JSON value, and what is next.

The search of one generation goes on under further generations of the same root: sizes to measure, one size after the
other to check, and at last the release. `service.hub.fleet.sizing.search` decides; nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service.contract.sizes import CountedUnit
from service.hub.fleet.documents import Budget
from service.hub.fleet.sizing.curve import Measured, Size
from service.hub.fleet.sizing.search import Decision, measurements, target_for, unit_for

TOO_LARGE = 10.0
"""Value of an export that the device could not measure, relative to the budget."""

Search = dict[str, Any]
"""`{"unit", "feasible": [min, max], "rungs": [{"digest", "bytes", "params", "macs", "target", "value"}]}`; `target` is
null for rungs of the ladder, `value` (milliseconds or bytes) while it is not measured."""


def new_search(budget: Budget, feasible: Mapping[str, int], manifests: Iterable[Mapping[str, Any]]) -> Search:
    """A search that begins with a ladder of artifacts.

    Args:
        budget: a measured one.
        feasible: `{"min", "max"}` in the unit of the search.
        manifests: of the rungs; those with the same digest count once.
    """
    rungs = {manifest["digest"]: rung(manifest, target=None) for manifest in manifests}
    return {
        "unit": unit_for(budget.unit),
        "feasible": [feasible["min"], feasible["max"]],
        "rungs": list(rungs.values()),
    }


def rung(manifest: Mapping[str, Any], *, target: int | None, value: float | None = None) -> dict[str, Any]:
    """An entry of a search."""
    return {
        **{name: manifest[name] for name in ("digest", "bytes", "params", "macs")},
        "target": target,
        "value": value,
    }


def with_export(search: Search, manifest: Mapping[str, Any], target: int) -> Search:
    """The search with an export that is to be measured; one that was measured already keeps its value."""
    known = [one["value"] for one in search["rungs"] if one["digest"] == manifest["digest"]]
    added = rung(manifest, target=target, value=known[-1] if known else None)
    return {**search, "rungs": [*search["rungs"], added]}


def with_timings(search: Search, budget: Budget, timings: Sequence[Mapping[str, Any]]) -> Search:
    """The search with what a node measured; values that are known stay."""
    sizes = {one["digest"]: _size(one) for one in search["rungs"]}
    found = {
        digest: one.value
        for digest in sizes
        for one in measurements(
            [row for row in timings if row["digest"] == digest],
            {digest: sizes[digest]},
            budget.unit,
            batch=budget.batch,
            threads=budget.threads,
            percentile=budget.percentile,
        )
    }
    rungs = [
        {**one, "value": found.get(one["digest"]) if one["value"] is None else one["value"]} for one in search["rungs"]
    ]
    return {**search, "rungs": rungs}


def without_unmeasured(search: Search, budget: Budget) -> Search:
    """The search of a device that could not measure some sizes: rungs are left out, an export counts as too large."""
    too_large = TOO_LARGE * float(budget.value)
    rungs = [
        {**one, "value": too_large} if one["value"] is None else one
        for one in search["rungs"]
        if one["value"] is not None or one["target"] is not None
    ]
    return {**search, "rungs": rungs}


def unmeasured(search: Search) -> list[dict[str, Any]]:
    """What is still to be measured, as the ladder of a probe, smallest first."""
    missing = [one for one in search["rungs"] if one["value"] is None]
    ladder = [{name: one[name] for name in ("digest", "bytes", "params", "macs")} for one in missing]
    return sorted(ladder, key=lambda one: (one["macs"], one["bytes"]))


def is_export(search: Search, digest: str) -> bool:
    """Whether an artifact was exported to be checked, in the quality that is wanted; rungs of the ladder were not."""
    return any(one["target"] is not None for one in search["rungs"] if one["digest"] == digest)


def measured(search: Search) -> list[Measured]:
    """What was measured, in order."""
    return [Measured(_size(one), one["value"], one["target"]) for one in search["rungs"] if one["value"] is not None]


def decide(search: Search, budget: Budget) -> Decision:
    """What to do next; something must have been measured."""
    low, high = search["feasible"]
    return target_for(float(budget.value), measured(search), feasible=(low, high), unit=unit_of(search))


def unit_of(search: Search) -> CountedUnit:
    """The unit in which sizes are searched."""
    unit: CountedUnit = search["unit"]
    return unit


def _size(one: Mapping[str, Any]) -> Size:
    return Size(macs=one["macs"], params=one["params"], bytes=one["bytes"])
