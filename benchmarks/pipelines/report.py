"""Tables and plots of the pipelines from their rows."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pipelines.cost import cost_tables
from benchmarks.pipelines.markdown import table
from benchmarks.pipelines.rivals import PRUNING_TO_GOAL
from benchmarks.rows import Json
from inn_core.files import written_aside

WHOLE = 1.0
READINGS = {"raw": "", "reestimated": ", statistics re-estimated"}
DETAILS = ("steps", "rate", "smallest", "epochs", "base")
"""Parts of a key that are named in a table when a method was measured with more than one of them."""


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


Series = dict[str, dict[float, Point]]
"""Name in the tables -> share -> point."""


def write_report(rows: Sequence[Json], path: Path) -> str:
    """Write tables (`.md`) and one plot for each network (`-NETWORK.png`) beside `path`; returns the tables."""
    reported = [row for row in rows if row["key"]["test"]]
    text = tables(reported)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path.with_suffix(".md"), text.encode())
    for network in _networks(reported):
        series = _series(_of(reported, network), "test")
        if any(len(points) > 1 for points in series.values()):
            _write(path.with_name(f"{path.stem}-{network}.png"), _drawn(series, network))
    return text


def tables(rows: Sequence[Json], *, on: str = "test") -> str:
    """The report as Markdown."""
    lines = [
        "# The pipelines of the paper, beside its rivals",
        "",
        f"% top-1 on the {on} images of Fashion-MNIST; mean over seeds, ± half of their range. Parameters are counted",
        "as in the ONNX file (BatchNorm folded); a star: that method reaches no size in (0.99 T, T], the largest below",
        f"is taken. The best setting of Torch-Pruning at each size is picked on the {on} images, which favours it.",
        "Other settings are tried with `--settings`, on 5,000 training images that such a run holds out. Made by",
        "`python -m benchmarks.pipelines`.",
        "",
    ]
    for network in _networks(rows):
        ours = _of(rows, network)
        lines += [f"## {network}", "", *_network_tables(_series(ours, on)), *cost_tables(ours, on)]
    lines += ["## How it was measured", "", *_environments(rows)]
    return "\n".join(lines) + "\n"


def _network_tables(series: Series) -> list[str]:
    whole = {name: points[WHOLE] for name, points in series.items() if WHOLE in points}
    lines: list[str] = []
    if whole:
        body = [[name, point.cell(), str(len(point.rows)), f"{point.params:,.0f}"] for name, point in whole.items()]
        lines += ["### Full size", "", *table(["", "% top-1", "seeds", "parameters"], body), ""]
    for shares in _share_sets(series):
        rows = {name: points for name, points in series.items() if set(points) & set(shares)}
        head = ["", *(f"{100 * share:g} %" for share in shares)]
        body = [[name, *(points[s].cell() if s in points else "" for s in shares)] for name, points in rows.items()]
        unique = {name: points for name, points in rows.items() if not name.endswith(READINGS["reestimated"])}
        costs = [[name, *(_size(points[s]) if s in points else "" for s in shares)] for name, points in unique.items()]
        lines += [f"### At {head[1]} to {head[-1]} of the parameters", "", *table(head, body), ""]
        lines += ["Parameters, and million multiply-accumulates:", "", *table(head, costs), ""]
    return lines


def _size(point: Point) -> str:
    macs = float(np.mean([row["macs"] for row in point.rows]))
    return f"{point.params:,.0f}, {macs / 1e6:.2f}"


def _share_sets(series: Series) -> list[list[float]]:
    """Shares of one table: those that methods have in common."""
    merged: list[set[float]] = []
    for points in series.values():
        shares = set(points) - {WHOLE}
        if not shares:
            continue
        touching = [other for other in merged if other & shares]
        merged = [other for other in merged if not other & shares] + [shares.union(*touching)]
    return [sorted(shares, reverse=True) for shares in merged]


def _series(rows: Sequence[Json], on: str) -> Series:
    """Points of all methods but the cost, as they come and with statistics taken again."""
    measured = [row for row in rows if row["key"]["method"] != PRUNING_TO_GOAL]
    varying = _varying(measured)
    grouped: dict[tuple[str, float], dict[int, list[Json]]] = defaultdict(lambda: defaultdict(list))
    for row in measured:
        grouped[_label(row["key"], varying), row["key"]["share"]][row["key"]["seed"]].append(row["found"])
    series: Series = defaultdict(dict)
    for (label, share), seeds in grouped.items():
        for reading, suffix in READINGS.items():
            if all(found[reading] for candidates in seeds.values() for found in candidates):
                best = tuple(max(candidates, key=partial(_read, reading, on)) for candidates in seeds.values())
                series[label + suffix][share] = Point(best, reading, on)
    return dict(series)


def _read(reading: str, on: str, found: Json) -> float:
    return float(found[reading][on])


def _varying(rows: Sequence[Json]) -> dict[str, list[str]]:
    """The details that a method was measured with more than one of."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        for detail in DETAILS:
            if detail in row["key"]:
                values[row["key"]["method"], detail].add(_named(detail, row["key"][detail]))
    found: dict[str, list[str]] = defaultdict(list)
    for (method, detail), seen in values.items():
        if len(seen) > 1:
            found[method].append(detail)
    return found


def _label(key: Mapping[str, Any], varying: Mapping[str, list[str]]) -> str:
    named = [_named(detail, key[detail]) for detail in varying.get(key["method"], ()) if detail in key]
    return ", ".join([key["method"], *named])


def _named(detail: str, value: Any) -> str:
    if detail == "steps":
        return f"{value:,} steps"
    if detail == "rate":
        return f"rate {value:g}"
    if detail == "smallest":
        return f"smallest {100 * value:g} %"
    if detail == "epochs":
        return f"{value} epochs"
    return str(value) if str(value).endswith("epochs") else "given weights"


def _environments(rows: Sequence[Json]) -> list[str]:
    seen = {tuple(sorted(row["environment"].items())) for row in rows}
    return [f"- {', '.join(f'{name} {value}' for name, value in each)}" for each in sorted(seen)]


def _drawn(series: Series, network: str) -> bytes:
    """Accuracy over parameters, one line for each method; bars from the worst to the best seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        drawn = sorted(points.values(), key=lambda point: point.params)
        means = np.array([point.accuracy for point in drawn])
        low = means - np.array([min(point.accuracies) for point in drawn])
        high = np.array([max(point.accuracies) for point in drawn]) - means
        axes.errorbar([point.params for point in drawn], means, yerr=[low, high], marker="o", capsize=2, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("% top-1, Fashion-MNIST test images")
    axes.set_title(network)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _networks(rows: Sequence[Json]) -> list[str]:
    return list(dict.fromkeys(row["key"]["network"] for row in rows))


def _of(rows: Sequence[Json], network: str) -> list[Json]:
    return [row for row in rows if row["key"]["network"] == network]


def _write(path: Path, data: bytes) -> None:
    with written_aside(path) as writer:
        writer.write(data)
