"""Tables and the plot of `benchmarks.accuracy` from its measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.output import table

Results = dict[str, Any]

OURS = {"refined": "refined (default)", "instant": "instant"}


def tables(results: Results, shares: Sequence[float]) -> str:
    """The report as Markdown; parts that were not measured are left out."""
    head = ["", *(f"{100 * share:g} %" for share in shares)]
    lines = [
        "# Accuracy of every size of the demo network",
        "",
        "% top-1 on the 10,000 test images of Fashion-MNIST at seven shares of the parameters; no labels are used for",
        "any size. Parameters are counted as in the ONNX file (BatchNorm folded). Made by",
        "`python -m benchmarks.accuracy`.",
        "",
    ]
    full = _full(results)
    lines += [
        f"Full network: {100 * full['accuracy']:.2f} %, {full['params']:,} parameters, "
        f"{full['macs'] / 1e6:.1f} M multiply-accumulates.",
        "",
    ]
    series = _series(results)
    lines += ["## Accuracy", "", *table(head, [[name, *(_percent(row) for row in rows)] for name, rows in series])]
    lost = [[name, *(f"{100 * (full['accuracy'] - row['accuracy']):.2f}" for row in rows)] for name, rows in series]
    lines += ["", "## Points lost against the full network", "", *table(head, lost)]
    cost = []
    for name, rows in series:
        cost.append([f"{name}: % of parameters", *(f"{100 * row['params'] / full['params']:.2f}" for row in rows)])
        cost.append([f"{name}: M multiply-accumulates", *(f"{row['macs'] / 1e6:.2f}" for row in rows)])
        cost.append([f"{name}: seconds per size", *(f"{row['seconds']:.2f}" for row in rows)])
    lines += ["", "## What each size is and costs", "", *table(head, cost)]
    if "rival" in results:
        lines += ["", *_rival_details(results["rival"], head)]
    lines += ["", *_notes(results)]
    return "\n".join(lines) + "\n"


def draw(results: Results, path: Path) -> None:
    """Accuracy over parameters, one line per method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    full = _full(results)
    for name, rows in _series(results):
        points = [*rows, full]
        points.sort(key=lambda row: int(row["params"]))
        parameters = [row["params"] for row in points]
        axes.plot(parameters, [100 * row["accuracy"] for row in points], marker="o", label=name)
    axes.axhline(100 * full["accuracy"], color="grey", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("% top-1, Fashion-MNIST test images")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def best_rows(rival: Results, key: str) -> list[Results]:
    """For each size the row of the setting with the highest `key`, with that value as its `accuracy`."""
    by_size = zip(*rival["settings"].values(), strict=True)
    best = [max(rows, key=lambda row: float(row[key])) for rows in by_size]
    return [{**row, "accuracy": row[key]} for row in best]


def _full(results: Results) -> Results:
    full: Results = (results.get("ours") or results["rival"])["full"]
    return full


def _series(results: Results) -> list[tuple[str, list[Results]]]:
    series = [(label, results["ours"][key]) for key, label in OURS.items() if key in results.get("ours", {})]
    if "rival" in results:
        series.append(("Torch-Pruning, BN re-estimated", best_rows(results["rival"], "accuracy_reestimated")))
        series.append(("Torch-Pruning, as it comes", best_rows(results["rival"], "accuracy")))
    return series


def _rival_details(rival: Results, head: list[str]) -> list[str]:
    rows = [
        [
            name,
            *(
                f"{100 * row['accuracy']:.1f} → {100 * row['accuracy_reestimated']:.1f}{'' if row['is_hit'] else '*'}"
                for row in measured
            ),
        ]
        for name, measured in rival["settings"].items()
    ]
    return [
        "## Torch-Pruning 1.6.1, every setting",
        "",
        "As it comes → BatchNorm statistics re-estimated on the calibration images. A star: the setting reaches no",
        "size in (0.99 T, T]; the largest below is taken.",
        "",
        *table(head, rows),
    ]


def _notes(results: Results) -> list[str]:
    lines = ["## How it was measured", ""]
    if "ours" in results:
        ours = results["ours"]
        lines.append(
            f"- refined and instant: `inn_core.exporting.curve.curve` on the shipped checkpoint, whose "
            f"{ours['calibration_images']:,} calibration images have no labels; seconds are plan and discretize. "
            + _where(ours)
        )
    if "rival" in results:
        lines.append(
            "- Torch-Pruning: the same trained weights, the channel ratio searched to the size; seconds are the whole "
            "search. The best setting of each size is picked on the test images, in its favour; Taylor also uses the "
            "labels of the calibration images. " + _where(results["rival"])
        )
    return lines


def _where(part: Results) -> str:
    environment = part["environment"]
    return f"torch {environment['torch']}, {environment['threads']} of {environment['cores']} cores."


def _percent(row: Results) -> str:
    return f"{100 * row['accuracy']:.2f}"
