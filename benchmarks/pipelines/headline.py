"""The table that a reader looks at first: one row for each share of the parameters, one column for each method.

Of a method that was measured with several numbers of steps or epochs the most are shown, since the methods of a row are
to be compared after equally many; of several rates the best at each size, and of both readings the better one. All of
that favours the rivals: ours have one reading, and one rate, that of the latest checkpoint of each seed. Of
Torch-Pruning the best of all rows is shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.output import table
from benchmarks.pipelines.baselines import ALONE, CONTINUED, DISCRETE
from benchmarks.pipelines.ours import INSTANT, REFINED, REFINED_OF_TRAINED, TRAINED
from benchmarks.pipelines.rivals import FOLDING, PRUNING, SLIMMABLE, SLIMMABLE_SCRATCH
from benchmarks.pipelines.series import RAW, REESTIMATED, WHOLE, Points, best_points, source_of
from benchmarks.rows import Json

AMOUNTS = ("steps", "epochs")

CUT_METHODS = ("largest filters", "integral, ")
"""How the names of the methods begin that only part B measures."""


@dataclass(frozen=True)
class Column:
    """A column of the table and a line of the plot.

    Attributes:
        title: of the column.
        method: whose rows.
        readings: "raw" and "reestimated"; the better one is shown.
        is_tuned: only rows with further training (True) or without it (False); None makes no difference.
        is_ours: whether it is drawn thick.
    """

    title: str
    method: str
    readings: tuple[str, ...] = (RAW, REESTIMATED)
    is_tuned: bool | None = None
    is_ours: bool = False

    def chosen(self, rows: Sequence[Json]) -> list[Json]:
        """The rows that belong here."""
        mine = [row for row in rows if row["key"]["method"] == self.method]
        if self.is_tuned is not None:
            mine = [row for row in mine if self.is_tuned == bool(row["key"].get("steps", 0))]
        return _most(mine, is_any_amount=self.method == PRUNING)


COLUMNS = (
    Column("discrete", DISCRETE),
    Column("discrete, trained on", CONTINUED),
    Column("ours, trained", TRAINED, is_ours=True),
    Column("ours, refined of trained", REFINED_OF_TRAINED, is_ours=True),
    Column("ours, refined", REFINED, is_ours=True),
    Column("ours, instant", INSTANT, is_ours=True),
    Column("slimmable", SLIMMABLE),
    Column("slimmable from scratch", SLIMMABLE_SCRATCH),
    Column("trained alone", ALONE),
    Column("Torch-Pruning, as it comes", PRUNING, (RAW,), is_tuned=False),
    Column("Torch-Pruning, statistics re-estimated", PRUNING, (REESTIMATED,), is_tuned=False),
    Column("Torch-Pruning, fine-tuned", PRUNING, is_tuned=True),
    Column("folding", FOLDING),
)


def headline_shares(rows: Sequence[Json]) -> list[float]:
    """Shares below the full size that the table has, largest first.

    Folding is measured at the sizes of part B, too, which has a table of its own: alone it makes no row of them.
    """
    shares: dict[str, set[float]] = defaultdict(set)
    for row in rows:
        shares[row["key"]["method"]].add(row["key"]["share"])
    cut = {share for method, found in shares.items() if method.startswith(CUT_METHODS) for share in found}
    others = {share for column in COLUMNS if column.method != FOLDING for share in shares[column.method]}
    return sorted((others | shares[FOLDING] - cut) - {WHOLE}, reverse=True)


def headline(rows: Sequence[Json], on: str) -> list[tuple[Column, Points]]:
    """Columns of which anything was measured, with their points at the shares of the table and at full size."""
    shares = {WHOLE, *headline_shares(rows)}
    found = []
    for column in COLUMNS:
        points: Points = {}
        for reading in column.readings:
            for share, point in best_points(column.chosen(rows), reading, on).items():
                if share in shares and (share not in points or point.accuracy > points[share].accuracy):
                    points[share] = point
        if points:
            found.append((column, points))
    return found


def headline_table(rows: Sequence[Json], on: str) -> list[str]:
    """Lines of the section; empty when no size below the full one was measured. What was not measured is blank."""
    shares = headline_shares(rows)
    if not shares:
        return []
    columns = headline(rows, on)
    head = ["parameters", *(column.title for column, _ in columns)]
    body = [
        [f"{100 * share:g} %", *(points[share].cell() if share in points else "" for _, points in columns)]
        for share in (WHOLE, *shares)
    ]
    notes = [f"- {column.title}: {_note(column.chosen(rows), points)}" for column, points in columns]
    return ["### Every size", "", *table(head, body), "", *notes, ""]


def trained_for(rows: Sequence[Json]) -> str:
    """Steps or epochs of some rows in words; empty when their keys have neither."""
    parts = []
    for amount in AMOUNTS:
        values = sorted({int(row["key"][amount]) for row in rows if row["key"].get(amount)})
        if values:
            parts.append(_span(values, amount[:-1], amount))
    return ", ".join(parts)


def _note(rows: Sequence[Json], points: Points) -> str:
    """Number of seeds, and how long it was trained."""
    counts = sorted({len(point.rows) for point in points.values()})
    seeds = _span(counts, "seed", "seeds")
    trained = trained_for(rows)
    return f"{seeds}, {trained}" if trained else seeds


def _most(rows: list[Json], *, is_any_amount: bool) -> list[Json]:
    """Rows from the latest weights and checkpoint of each share and seed, and of those the ones trained longest."""
    grouped: dict[tuple[float, int], list[Json]] = defaultdict(list)
    for row in rows:
        grouped[row["key"]["share"], row["key"]["seed"]].append(row)
    kept: list[Json] = []
    for members in grouped.values():
        most = max(_amount(row) for row in members)
        longest = [row for row in members if is_any_amount or _amount(row) == most]
        kept += [row for row in longest if source_of(row) == source_of(longest[-1])]
    return kept


def _amount(row: Json) -> tuple[int, ...]:
    return tuple(int(row["key"].get(amount, 0)) for amount in AMOUNTS)


def _span(values: Sequence[int], one: str, many: str) -> str:
    first, last = values[0], values[-1]
    if first == last:
        return f"{first:,} {one if first == 1 else many}"
    return f"{first:,} to {last:,} {many}"
