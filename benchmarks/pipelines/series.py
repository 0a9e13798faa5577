"""Points of the tables and plots: rows of one method at one size, gathered over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.pipelines.rivals import PRUNING_TO_GOAL
from benchmarks.pipelines.run import AVERAGE
from benchmarks.rows import Json

WHOLE = 1.0
RAW, REESTIMATED = "raw", "reestimated"
READINGS = {RAW: "", REESTIMATED: ", statistics re-estimated"}
DETAILS = ("steps", "rate", AVERAGE, "smallest", "epochs", "base")
"""Parts of a key that are named in a table when a method was measured with more than one of them."""

SOURCES = ("base", "checkpoint")
"""Parts of a key that say by their digest what a seed started from."""


@dataclass(frozen=True)
class Point:
    """One method at one share, over seeds.

    Attributes:
        rows: what was found, one for each seed.
        reading: "raw" or "reestimated".
        on: "test" or "validation".
    """

    rows: tuple[Json, ...]
    reading: str
    on: str

    @property
    def accuracies(self) -> list[float]:
        """Percent, one for each seed."""
        return [100 * float(row[self.reading][self.on]) for row in self.rows]

    @property
    def accuracy(self) -> float:
        """Mean over seeds, percent."""
        return float(np.mean(self.accuracies))

    @property
    def params(self) -> float:
        """Mean over seeds."""
        return float(np.mean([row["params"] for row in self.rows]))

    def cell(self) -> str:
        """Mean, and half of the range where there are several seeds; a star when a target was missed."""
        values = self.accuracies
        spread = f" ± {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else ""
        return f"{self.accuracy:.2f}{spread}{'' if all(row.get('is_hit', True) for row in self.rows) else '*'}"


Points = dict[float, Point]
"""Share -> point."""

Series = dict[str, Points]
"""Name in the tables -> points."""


def all_series(rows: Sequence[Json], on: str) -> Series:
    """Points of all methods but the cost, as they come and with statistics taken again.

    Where a method was measured with several settings of its own (Torch-Pruning), the best of them at each share and
    seed is taken. Where a seed was measured from several weights or checkpoints, the latest counts.
    """
    measured = [row for row in rows if row["key"]["method"] != PRUNING_TO_GOAL]
    named = labelled(measured)
    latest = {(label, row["key"]["seed"]): source_of(row) for label, row in named}
    grouped: dict[str, list[Json]] = defaultdict(list)
    for label, row in named:
        if source_of(row) == latest[label, row["key"]["seed"]]:
            grouped[label].append(row)
    series: Series = {}
    for label, members in grouped.items():
        for reading, suffix in READINGS.items():
            points = best_points(members, reading, on)
            if points:
                series[label + suffix] = points
    return series


def labelled(rows: Sequence[Json], *, without: Sequence[str] = ()) -> list[tuple[str, Json]]:
    """Each row behind its name in a table: its method, and the details that this was measured with more than one of.

    Args:
        rows: of one table.
        without: details that the table shows elsewhere.
    """
    varying = _varying(rows)
    return [(_label(row["key"], varying, without), row) for row in rows]


def best_points(rows: Iterable[Json], reading: str, on: str) -> Points:
    """The best row of each seed at each share; a share where a row lacks the reading is left out."""
    grouped: dict[float, dict[int, list[Json]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[row["key"]["share"]][row["key"]["seed"]].append(row["found"])
    points: Points = {}
    for share, seeds in grouped.items():
        if all(found[reading] for candidates in seeds.values() for found in candidates):
            best = tuple(max(candidates, key=partial(_read, reading, on)) for candidates in seeds.values())
            points[share] = Point(best, reading, on)
    return points


def source_of(row: Json) -> tuple[Any, ...]:
    """What a row started from: the weights of the discrete network, and the trained checkpoint if there was one."""
    return tuple(row["key"].get(name) for name in SOURCES)


def _read(reading: str, on: str, found: Json) -> float:
    return float(found[reading][on])


def _varying(rows: Sequence[Json]) -> dict[str, list[str]]:
    """The details that a method was measured with more than one of."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        for detail in DETAILS:
            if detail in row["key"] or detail == AVERAGE:
                values[row["key"]["method"], detail].add(_named(detail, row["key"].get(detail)))
    found: dict[str, list[str]] = defaultdict(list)
    for (method, detail), seen in values.items():
        if len(seen) > 1:
            found[method].append(detail)
    return found


def _label(key: Mapping[str, Any], varying: Mapping[str, list[str]], without: Sequence[str]) -> str:
    told = [detail for detail in varying.get(key["method"], ()) if detail in key and detail not in without]
    named = [_named(detail, key[detail]) for detail in told]
    return ", ".join([key["method"], *named])


def _named(detail: str, value: Any) -> str:
    if detail == "steps":
        return f"{value:,} steps"
    if detail == "rate":
        return f"rate {value:g}"
    if detail == AVERAGE:
        return f"averaged over {100 * value:g} %" if value else "the last step"
    if detail == "smallest":
        return f"smallest {100 * value:g} %"
    if detail == "epochs":
        return f"{value} epochs"
    return str(value) if str(value).endswith("epochs") else "given weights"
