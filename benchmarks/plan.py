"""Plans on the demo network: gap to the target, monotony and time, for 200 random targets per unit and multiple.

Run: `python -m benchmarks.plan [CHECKPOINT]`. Prints a table; writes nothing.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import load_checkpoint
from inn_core.graph.cost import UNITS, Unit
from inn_core.planning.plan import Budget, choose_plan, feasible_range

DEMO = Path(__file__).parent.parent / "models" / "checkpoints" / "fashion_resnet.inn"
TARGETS = 200


def measure(checkpoint: Checkpoint, unit: Unit, multiple_of: int, *, seed: int = 0) -> dict[str, float]:
    """Gaps in percent of the target, monotony and milliseconds of `TARGETS` random targets over the feasible range."""
    low, high = feasible_range(checkpoint, unit, multiple_of)
    targets = np.sort(np.random.default_rng(seed).integers(low, high + 1, TARGETS))
    choose_plan(checkpoint, Budget(unit, high), multiple_of=multiple_of)
    gaps, achieved, milliseconds = [], [], []
    for target in targets.tolist():
        started = time.perf_counter()
        plan = choose_plan(checkpoint, Budget(unit, target), multiple_of=multiple_of)
        milliseconds.append(1000 * (time.perf_counter() - started))
        cost = getattr(plan, unit)
        assert cost <= target, f"{unit} {target}: plan costs {cost}"
        achieved.append(cost)
        gaps.append(100 * (target - cost) / target)
    assert all(a <= b for a, b in pairwise(achieved)), "not monotone"
    return {
        "gap median": float(np.median(gaps)),
        "gap max": max(gaps),
        "ms median": float(np.median(milliseconds)),
        "ms max": max(milliseconds),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=DEMO)
    network = load_checkpoint(parser.parse_args().checkpoint)
    print("| unit | multiple of | gap median % | gap max % | ms median | ms max |")
    print("|---|---|---|---|---|---|")
    for unit in UNITS:
        for multiple_of in (1, 8):
            row = measure(network, unit, multiple_of)
            print(f"| {unit} | {multiple_of} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |")


if __name__ == "__main__":
    main()
