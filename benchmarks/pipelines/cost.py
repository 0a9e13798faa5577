"""What many sizes cost: methods that train once for all, beside Torch-Pruning tuned to equal accuracy at every size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.output import table
from benchmarks.pipelines.rivals import GOAL_SETTING, PRUNING, PRUNING_TO_GOAL
from benchmarks.pipelines.series import labelled
from benchmarks.rows import Json

SIZE_COUNTS = (1, 4, 16, 64)
"""Numbers of sizes that the cost is given for."""


def goals(rows: Sequence[Json], method: str, same: Mapping[str, Any]) -> dict[float, float]:
    """What a method reached at each share below 1, with the most steps that it was measured with.

    Args:
        rows: all rows.
        method: whose.
        same: what else a row's key must say: network, seed, base, and whether it looked at test images or was quick.

    Returns:
        Share of the parameters -> accuracy on the images that such rows report, statistics taken again where that was
        measured; of rows with equal steps the latest; largest share first.
    """
    on = "test" if same["test"] else "validation"
    found: dict[float, tuple[int, float]] = {}
    for row in rows:
        key, value = row["key"], row["found"]
        if key["method"] == method and key["share"] < 1.0 and all(key[name] == value for name, value in same.items()):
            steps = int(value.get("shared_steps", value.get("steps", 0)))
            reading = value["reestimated"] or value["raw"]
            if steps >= found.get(key["share"], (0, 0.0))[0]:
                found[key["share"]] = steps, float(reading[on])
    return {share: accuracy for share, (_, accuracy) in sorted(found.items(), reverse=True)}


def cost_tables(rows: Sequence[Json], on: str) -> list[str]:
    """Seconds and gradient steps for many sizes: methods that pay once, and Torch-Pruning tuned for every size.

    Sizes are those below the full one, which needs no work of its own. Where the other method became better and a size
    was pruned to its new accuracy as well, the latest goal counts.
    """
    body: list[list[str]] = []
    at_once = [row for row in rows if "shared_seconds" in row["found"] and row["key"]["share"] < 1.0]
    shared: dict[tuple[str, int], list[Json]] = defaultdict(list)
    for label, row in labelled(at_once, without=("steps",)):
        shared[label, row["found"]["shared_steps"]].append(row["found"])
    tuned = _latest_goals([row for row in rows if row["key"]["method"] == PRUNING_TO_GOAL])
    for (method, steps), measured in shared.items():
        once = float(np.mean([found["shared_seconds"] for found in measured]))
        again = float(np.mean([found["seconds"] for found in measured]))
        costs = [_cost(once + count * again, steps, reached=True) for count in SIZE_COUNTS]
        body.append([f"{method}, {steps:,} steps", *costs])
    body += [[f"{PRUNING} as good as {goal}", *_interpolated(measured)] for goal, measured in tuned.items()]
    if not body:
        return []
    head = ["", *(f"{count} {'size' if count == 1 else 'sizes'}" for count in SIZE_COUNTS)]
    lines = [
        "### Cost of many sizes",
        "",
        "Seconds and gradient steps, the training of the full network left out. Seconds depend on what else the",
        "machine did, steps do not.",
        "",
    ]
    lines += [*table(head, body), ""]
    if tuned:
        lines += [
            f"Sizes are spaced evenly on a log scale. Torch-Pruning (setting {GOAL_SETTING}; no other was tried) was",
            "fine-tuned at the measured shares with ever more steps until it reached the accuracy of the other method",
            f"on the same {on} images, which favours it; only the run that reached it counts, and sizes between are",
            "interpolated. `>`: some sizes never reached it, and count with their best run.",
            "",
        ]
    for goal, measured in tuned.items():
        lines += [f"As good as {goal}: goal, reached, steps.", "", *table(*_goal_rows(measured, on)), ""]
    return lines


def _latest_goals(rows: Sequence[Json]) -> dict[str, list[Json]]:
    """Method that was to be reached -> the latest row of each seed and share."""
    latest: dict[str, dict[tuple[int, float], Json]] = defaultdict(dict)
    for row in rows:
        key = row["key"]
        latest[key["goal_method"]][key["seed"], key["share"]] = row
    return {goal: list(found.values()) for goal, found in latest.items()}


def _interpolated(rows: Sequence[Json]) -> list[str]:
    """Cost of 1, 4, 16, 64 sizes from what the measured shares cost."""
    by_share: dict[float, list[Json]] = defaultdict(list)
    for row in rows:
        by_share[row["key"]["share"]].append(row["found"])
    shares = np.array(sorted(by_share))
    seconds = [float(np.mean([found["seconds"] for found in by_share[share]])) for share in shares]
    steps = [float(np.mean([found["steps"] for found in by_share[share]])) for share in shares]
    reached = all(row["found"]["is_reached"] for row in rows)
    cells = []
    for count in SIZE_COUNTS:
        wanted = np.log(np.geomspace(shares[0], shares[-1], count) if count > 1 else np.sqrt(shares[:1] * shares[-1]))
        total = [float(np.interp(wanted, np.log(shares), values).sum()) for values in (seconds, steps)]
        cells.append(_cost(total[0], total[1], reached=reached))
    return cells


def _goal_rows(rows: Sequence[Json], on: str) -> tuple[list[str], list[list[str]]]:
    shares = sorted({row["key"]["share"] for row in rows}, reverse=True)
    by_seed: dict[int, dict[float, Json]] = defaultdict(dict)
    for row in rows:
        by_seed[row["key"]["seed"]][row["key"]["share"]] = row
    body = []
    for seed, found in sorted(by_seed.items()):
        cells = [_goal_cell(found[share], on) if share in found else "" for share in shares]
        body.append([f"seed {seed}", *cells])
    return ["", *(f"{100 * share:g} %" for share in shares)], body


def _goal_cell(row: Json, on: str) -> str:
    found = row["found"]
    mark = "" if found["is_reached"] else " not"
    return f"{100 * row['key']['goal']:.2f},{mark} {100 * found['raw'][on]:.2f}, {found['steps']:,}"


def _cost(seconds: float, steps: float, *, reached: bool) -> str:
    return f"{'' if reached else '> '}{seconds:,.0f} s, {steps:,.0f}"
