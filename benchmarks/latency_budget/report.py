"""The report of `benchmarks.latency_budget`: one line a budget, and what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.hub.fleet.sizing.curve import Measured

WITHIN = 0.9
"""Share of the largest size that fits which a search is to find."""


@dataclass(frozen=True)
class Row:
    """One budget.

    Attributes:
        threads, batch: of the runs.
        limit_ms: the budget.
        kind: of the last decision.
        exports: after the ladder.
        ladder_seconds: time to make and measure the ladder.
        load: average of the machine when the search began.
        chosen: the size that was settled on, with the latency it was chosen by; None when not even the smallest fits.
        again_ms: its latency when measured once more.
        largest: the largest size found to fit by brute force.
    """

    threads: int
    batch: int
    limit_ms: float
    kind: str
    exports: int
    ladder_seconds: float
    load: float
    chosen: Measured | None
    again_ms: float | None
    largest: Measured | None

    @property
    def share(self) -> float | None:
        """The chosen size, relative to the largest that fits."""
        if self.chosen is None or self.largest is None:
            return None
        return self.chosen.size.macs / self.largest.size.macs


def report(
    rows: Sequence[Row],
    *,
    network: str,
    full_macs: int,
    percentile: int,
    steps: float,
    repeats: int,
    cores: int,
) -> str:
    """Markdown for all budgets.

    Args:
        rows: what was found.
        network: its name.
        full_macs: of the full network.
        percentile: that the budgets are about.
        steps: relative distance of the sizes of the brute force.
        repeats: measurements of each of them.
        cores: that this process may use.
    """
    lines = [
        "# Latency budgets measured on the device",
        "",
        f"Made by `python -m benchmarks.latency_budget` on the demo checkpoint `{network}` "
        f"({full_macs / 1e6:.2f} M MACs a row at its full size), on {cores} cores. Budgets are on the {percentile}th "
        "percentile of the latency of one run. *found* is the latency that a size was chosen by, *again* the median of "
        f"{repeats} later measurements, *largest* the largest size that fits by brute force in steps of "
        f"{100 * steps:.0f} %, by the median of {repeats} measurements of each size.",
        "",
        "| threads | batch | budget, ms | outcome | M MACs | found, ms | again, ms | largest, M MACs | share | exports "
        "| ladder, s | load |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row) for row in rows]
    return "\n".join([*lines, "", *_summary(rows), ""])


def _line(row: Row) -> str:
    cells = [str(row.threads), str(row.batch), f"{row.limit_ms:g}", row.kind]
    if row.chosen is None or row.largest is None or row.again_ms is None or row.share is None:
        cells += ["-"] * 5
    else:
        cells += [
            f"{row.chosen.size.macs / 1e6:.3f}",
            f"{row.chosen.value:.2f}",
            f"{row.again_ms:.2f}",
            f"{row.largest.size.macs / 1e6:.3f}",
            f"{100 * row.share:.0f} %",
        ]
    return "| " + " | ".join([*cells, str(row.exports), f"{row.ladder_seconds:.0f}", f"{row.load:.1f}"]) + " |"


def _summary(rows: Sequence[Row]) -> list[str]:
    reached = [row for row in rows if row.chosen is not None]
    within = [row for row in reached if row.chosen is not None and row.chosen.value <= row.limit_ms]
    again = [row for row in reached if row.again_ms is not None and row.again_ms <= row.limit_ms]
    close = [row for row in reached if row.share is not None and row.share >= WITHIN]
    most = max((row.exports for row in rows), default=0)
    return [
        f"- Within the budget when chosen: {len(within)} of {len(reached)}; when measured again: {len(again)}.",
        f"- At least {100 * WITHIN:.0f} % of the largest size that fits: {len(close)} of {len(reached)}.",
        f"- Exports after the ladder: {most} at most, {sum(row.exports for row in rows) / max(len(rows), 1):.1f} on "
        "average.",
        f"- Load average of the machine: {min(row.load for row in rows):.1f} to {max(row.load for row in rows):.1f} "
        "(more than the idle machine's own: the latencies include waiting for a core).",
    ]
