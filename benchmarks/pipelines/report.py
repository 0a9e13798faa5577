"""Tables and plots of the pipelines from their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.output import table
from benchmarks.pipelines.cost import cost_tables
from benchmarks.pipelines.drawing import draw_headline, draw_partitions
from benchmarks.pipelines.headline import CUT_METHODS, headline, headline_shares, headline_table, trained_for
from benchmarks.pipelines.rivals import FOLDING
from benchmarks.pipelines.series import READINGS, REESTIMATED, WHOLE, Points, Series, all_series
from benchmarks.rows import Json
from inn_core.files import written_aside


def write_report(rows: Sequence[Json], path: Path) -> str:
    """Write tables (`.md`) and plots (`-NETWORK.png`, `-NETWORK-removed.png`) beside `path`; returns the tables."""
    reported = [row for row in rows if row["key"]["test"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    figures: dict[str, list[str]] = {}
    for network in _networks(reported):
        for suffix, drawn in _drawn(_of(reported, network), network, "test").items():
            file = path.with_name(f"{path.stem}-{network}{suffix}.png")
            _write(file, drawn)
            figures.setdefault(network, []).append(file.name)
    text = tables(reported, figures=figures)
    _write(path.with_suffix(".md"), text.encode())
    return text


def tables(rows: Sequence[Json], *, on: str = "test", figures: Mapping[str, Sequence[str]] | None = None) -> str:
    """The report as Markdown.

    Args:
        rows: measured.
        on: the images that accuracies are of, "test" or "validation".
        figures: names of the plots of each network.
    """
    lines = [
        "# The pipelines of the paper, beside its rivals",
        "",
        f"% top-1 on the {on} images of Fashion-MNIST; mean over seeds, ± half of their range. Parameters are counted",
        "as in the ONNX file (BatchNorm folded); a star: that method reaches no size in (0.99 T, T], the largest below",
        "is taken. A blank: not measured. Ours are exported artifacts, run in ONNX Runtime. Of the rivals the better",
        "reading (statistics as they come or re-estimated on 1,000 training images) and the best rate and setting at",
        f"each size are picked on the {on} images, which favours them; tables further down have every reading.",
        "Other settings are tried with `--settings`, on 5,000 training images that such a run holds out. Made by",
        "`python -m benchmarks.pipelines`.",
        "",
    ]
    for network in _networks(rows):
        measured = _of(rows, network)
        lines += [f"## {network}", "", *headline_table(measured, on)]
        for name in (figures or {}).get(network, ()):
            lines += [f"![accuracy over parameters]({name})", ""]
        lines += [*_full_size(measured, on), *_share_tables(all_series(measured, on)), *cost_tables(measured, on)]
    lines += ["## How it was measured", "", *_environments(rows)]
    return "\n".join(lines) + "\n"


def _full_size(rows: Sequence[Json], on: str) -> list[str]:
    """The table of pipeline A, with every other method at full size."""
    body = []
    whole = [row for row in rows if row["key"]["share"] == WHOLE]
    for name, points in all_series(whole, on).items():
        point = points[WHOLE]
        mine = [row for row in whole if any(row["found"] is found for found in point.rows)]
        body.append([name, point.cell(), str(len(point.rows)), trained_for(mine), f"{point.params:,.0f}"])
    if not body:
        return []
    return ["### Full size", "", *table(["", "% top-1", "seeds", "training", "parameters"], body), ""]


def _share_tables(series: Series) -> list[str]:
    lines: list[str] = []
    for shares in _share_sets(series):
        rows = {name: points for name, points in series.items() if set(points) & set(shares)}
        head = ["", *(f"{100 * share:g} %" for share in shares)]
        body = [[name, *(points[s].cell() if s in points else "" for s in shares)] for name, points in rows.items()]
        unique = {name: points for name, points in rows.items() if not name.endswith(READINGS[REESTIMATED])}
        costs = [[name, *(_size(points, s) for s in shares)] for name, points in unique.items()]
        title = f"At {head[1]} to {head[-1]} of the parameters"
        if any(name.startswith(CUT_METHODS) for name in rows):
            title = f"Without training: {title[0].lower()}{title[1:]}"
        lines += [f"### {title}", "", *table(head, body), ""]
        lines += ["Parameters, and million multiply-accumulates:", "", *table(head, costs), ""]
    return lines


def _size(points: Points, share: float) -> str:
    if share not in points:
        return ""
    macs = float(np.mean([row["macs"] for row in points[share].rows]))
    return f"{points[share].params:,.0f}, {macs / 1e6:.2f}"


def _share_sets(series: Series) -> list[list[float]]:
    """Shares of one table: those that methods have in common.

    Folding is measured at the sizes of parts B and C, so it joins tables and does not merge them.
    """
    merged: list[set[float]] = []
    joining: set[float] = set()
    for name, points in series.items():
        shares = set(points) - {WHOLE}
        if name.startswith(FOLDING):
            joining |= shares
        elif shares:
            touching = [other for other in merged if other & shares]
            merged = [other for other in merged if not other & shares] + [shares.union(*touching)]
    rest = joining.difference(*merged)
    return [sorted(shares, reverse=True) for shares in (*merged, rest) if shares]


def _drawn(rows: Sequence[Json], network: str, on: str) -> dict[str, bytes]:
    """The plots of a network by the end of their names; none of what was measured at one size only."""
    drawn: dict[str, bytes] = {}
    if headline_shares(rows):
        drawn[""] = draw_headline(headline(rows, on), network)
    series = all_series(rows, on)
    for shares in _share_sets(series):
        at = {name: {s: p for s, p in points.items() if s in shares} for name, points in series.items()}
        at = {name: points for name, points in at.items() if points}
        if len(shares) > 1 and any(name.startswith(CUT_METHODS) for name in at):
            drawn["-removed"] = draw_partitions(at, network)
    return drawn


def _environments(rows: Sequence[Json]) -> list[str]:
    seen = {tuple(sorted(row["environment"].items())) for row in rows}
    return [f"- {', '.join(f'{name} {value}' for name, value in each)}" for each in sorted(seen)]


def _networks(rows: Sequence[Json]) -> list[str]:
    return list(dict.fromkeys(row["key"]["network"] for row in rows))


def _of(rows: Sequence[Json], network: str) -> list[Json]:
    return [row for row in rows if row["key"]["network"] == network]


def _write(path: Path, data: bytes) -> None:
    with written_aside(path) as writer:
        writer.write(data)
