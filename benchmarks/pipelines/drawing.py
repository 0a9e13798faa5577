"""Plots of the pipelines: accuracy over the parameters that a size really has."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.pipelines.headline import Column
from benchmarks.pipelines.series import READINGS, REESTIMATED, Points, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UPPER_END = 6.0
"""Percentage points below the best that the enlarged panel shows."""

MARGIN = 0.3
COLOURS = "tab10"
DASHES = ("-", "--", ":")
"""Lines beyond the tenth take the colours again with other dashes."""


def draw_headline(columns: Sequence[tuple[Column, Points]], network: str) -> bytes:
    """All methods of the headline table as PNG: everything on the left, the upper end enlarged on the right."""
    figure, panels = _panels(2)
    for axes in panels:
        for number, (column, points) in enumerate(columns):
            width = 2.6 if column.is_ours else 1.2
            _line(axes, points, number, label=column.title, linewidth=width, zorder=3 if column.is_ours else 2)
        _axis(axes, [points for _, points in columns])
    best = max(point.accuracy for _, points in columns for point in points.values())
    panels[0].set_title(network)
    panels[1].set_title("the upper end")
    panels[1].set_ylim(best - UPPER_END, best + MARGIN)
    return _finished(figure, panels[0])


def draw_partitions(series: Series, network: str) -> bytes:
    """Methods that change no weight as PNG: as they come on the left, with statistics taken again on the right."""
    figure, panels = _panels(2)
    suffix = READINGS[REESTIMATED]
    names = list(dict.fromkeys(name.removesuffix(suffix) for name in series))
    for axes, ending in zip(panels, ("", suffix), strict=True):
        drawn = {name: series[name + ending] for name in names if name + ending in series}
        for name, points in drawn.items():
            _line(axes, points, names.index(name), label=name, linewidth=1.6)
        _axis(axes, drawn.values())
    panels[0].set_title(f"{network}, as they come")
    panels[1].set_title("statistics re-estimated")
    return _finished(figure, max(panels, key=lambda axes: len(axes.lines)))


def thousands(count: float) -> str:
    """A number of parameters as a short label: `44k` from ten thousand on, else all digits."""
    return f"{count / 1000:,.0f}k" if count >= 10_000 else f"{count:,.0f}"


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.5), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _line(axes: Axes, points: Points, number: int, **style: Any) -> None:
    """One method; bars from the worst to the best seed."""
    import matplotlib

    drawn = sorted(points.values(), key=lambda point: point.params)
    means = np.array([point.accuracy for point in drawn])
    low = means - np.array([min(point.accuracies) for point in drawn])
    high = np.array([max(point.accuracies) for point in drawn]) - means
    style |= {"color": matplotlib.colormaps[COLOURS](number % 10), "linestyle": DASHES[number // 10 % len(DASHES)]}
    counts = [point.params for point in drawn]
    axes.errorbar(counts, means, yerr=[low, high], marker="o", markersize=4, capsize=2, **style)


def _axis(axes: Axes, drawn: Iterable[Points]) -> None:
    """Parameters on a log scale, with a tick at every share that was measured."""
    by_share: dict[float, list[float]] = {}
    for points in drawn:
        for share, point in points.items():
            by_share.setdefault(share, []).append(point.params)
    axes.set_xscale("log")
    ticks = sorted(max(counts) for counts in by_share.values())
    axes.set_xticks(ticks, [thousands(tick) for tick in ticks], rotation=45)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("parameters")
    axes.set_ylabel("% top-1, Fashion-MNIST test images")
    axes.grid(alpha=0.3)


def _finished(figure: Figure, labelled: Axes) -> bytes:
    handles, labels = labelled.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
