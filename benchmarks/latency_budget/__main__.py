"""Latency budgets on this machine: `python -m benchmarks.latency_budget` writes docs/results/latency_budget.md.

For 1 and 2 threads, one row and a batch large enough for the budgets to bite: the search that hub and node do together
(`service.hub.fleet.sizing.search`, `service.node.benchmark.run`), with the artifacts of the demo checkpoint in quality
`instant`, which have the sizes of any other quality. Then brute force: every size in steps of a few percent around the
one chosen is measured in the same way, several times, and the largest whose median is within the budget is what the
search should have found. Of single measurements the largest that fits would be the luckiest one.

Latencies of a busy machine say more about its scheduler than about the network; the report names the load. It takes
some minutes on a quiet one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency_budget.report import Row, report
from benchmarks.output import say, write_text
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import load_checkpoint
from inn_core.exporting.export import export_artifact
from inn_core.planning.plan import Budget, feasible_range
from service.hub.fleet.sizing.curve import Measured, Size
from service.hub.fleet.sizing.search import Decision, choose_ladder, corrected, target_for
from service.node.benchmark.run import BenchmarkSettings, measure_artifact

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "latency_budget.md"
DEMO = ROOT / "models" / "checkpoints" / "fashion_resnet.inn"
NO_DIGEST = "sha256:" + "0" * 64
BRUTE_RANGE = (0.75, 1.6)
"""Sizes tried by brute force, relative to the chosen one; the rungs of the ladder lie beyond."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What is measured, and how.

    Attributes:
        network: the checkpoint.
        folder: for artifacts.
        multiple_of: of the group sizes.
        percentile: 50 or 95.
        settings: of the measurements.
        steps: relative distance of the sizes of the brute force.
        repeats: measurements of each of those, and of the chosen size afterwards, whose median counts.
    """

    network: Checkpoint
    folder: Path
    multiple_of: int
    percentile: int
    settings: BenchmarkSettings
    steps: float
    repeats: int

    @property
    def feasible(self) -> tuple[int, int]:
        """Smallest and largest size in multiply-accumulates."""
        return feasible_range(self.network, "macs", self.multiple_of)

    def artifact(self, target: int) -> tuple[Path, Size, str]:
        """The artifact of a target in multiply-accumulates, made once."""
        path = self.folder / f"{target}.onnx"
        manifest = export_artifact(
            self.network,
            Budget("macs", target),
            quality="instant",
            multiple_of=self.multiple_of,
            path=path,
            checkpoint_digest=NO_DIGEST,
            device="cpu",
            verify=False,
        )
        return path, Size(manifest["macs"], manifest["params"], manifest["bytes"]), manifest["digest"]

    async def measure(self, target: int, *, batch: int, threads: int) -> Measured:
        """Make and measure one size."""
        path, size, digest = self.artifact(target)
        row = await measure_artifact(
            path, digest=digest, size_bytes=size.bytes, batch=batch, threads=threads, settings=self.settings
        )
        return Measured(size, row[f"p{self.percentile}_ms"])

    async def measure_often(self, targets: Sequence[int], *, batch: int, threads: int) -> list[Measured]:
        """The median of several measurements of each target, by turns, so that a slow minute meets them all."""
        rounds = [
            [await self.measure(target, batch=batch, threads=threads) for target in targets]
            for _ in range(self.repeats)
        ]
        return [
            Measured(turns[0].size, float(np.median([one.value for one in turns])))
            for turns in zip(*rounds, strict=True)
        ]


async def rows_of(bench: Bench, budgets: Sequence[float], *, batch: int, threads: int) -> list[Row]:
    """All budgets for one batch and thread count, on one ladder."""
    say(f"{threads} threads, batch {batch}: ladder")
    began = time.perf_counter()
    ladder = [await bench.measure(target, batch=batch, threads=threads) for target in choose_ladder(bench.feasible)]
    seconds = time.perf_counter() - began
    rows = []
    for limit in budgets:
        load = os.getloadavg()[0]
        decision, measured = await search(bench, limit, ladder, batch=batch, threads=threads)
        say(f"{threads} threads, batch {batch}, {limit:g} ms: {decision.kind} at {decision.target:,}")
        row = Row(
            threads=threads,
            batch=batch,
            limit_ms=limit,
            kind=decision.kind,
            exports=len(measured) - len(ladder),
            ladder_seconds=seconds,
            load=load,
            chosen=None,
            again_ms=None,
            largest=None,
        )
        rows.append(row)
        if decision.kind == "unreachable":
            continue
        chosen = max((one for one in measured if one.value <= limit), key=lambda one: one.size)
        again = (await bench.measure_often([decision.target], batch=batch, threads=threads))[0].value
        largest = chosen
        if decision.kind != "full":
            tried = await brute_force(bench, decision.target, batch=batch, threads=threads)
            fitting = [one for one in tried if one.value <= limit]
            largest = max([chosen, *fitting], key=lambda one: one.size)
        rows[-1] = replace(row, chosen=chosen, again_ms=again, largest=largest)
    return rows


async def search(
    bench: Bench, limit: float, ladder: Sequence[Measured], *, batch: int, threads: int
) -> tuple[Decision, list[Measured]]:
    """What hub and node do for one budget; returns the outcome and all that was measured."""
    measured = list(ladder)
    while True:
        decision = target_for(limit, measured, feasible=bench.feasible, unit="macs")
        if decision.kind != "export":
            return decision, measured
        found = await bench.measure(decision.target, batch=batch, threads=threads)
        measured = corrected(measured, target=decision.target, size=found.size, value=found.value)


async def brute_force(bench: Bench, target: int, *, batch: int, threads: int) -> list[Measured]:
    """Measure every size around a target, in small steps."""
    low, high = (share * target for share in BRUTE_RANGE)
    count = int(np.log(high / low) / np.log1p(bench.steps)) + 1
    targets = np.geomspace(low, high, count).astype(int).clip(*bench.feasible)
    return await bench.measure_often([int(one) for one in np.unique(targets)], batch=batch, threads=threads)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    options = _parser().parse_args(arguments)
    network = load_checkpoint(options.checkpoint)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            network=network,
            folder=Path(folder),
            multiple_of=options.multiple_of,
            percentile=options.percentile,
            settings=BenchmarkSettings(seconds=options.seconds),
            steps=options.steps,
            repeats=options.repeats,
        )
        for threads in options.threads:
            for batch in options.batch:
                rows += asyncio.run(rows_of(bench, options.budget, batch=batch, threads=threads))
    text = report(
        rows,
        network=network.name,
        full_macs=bench.feasible[1],
        percentile=options.percentile,
        steps=options.steps,
        repeats=options.repeats,
        cores=len(os.sched_getaffinity(0)),
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.output, text)
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency_budget", description="Latency budgets.")
    parser.add_argument("checkpoint", type=Path, nargs="?", default=DEMO)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="rows of one run")
    parser.add_argument("--budget", type=float, nargs="+", default=[2.0, 5.0, 20.0], help="milliseconds")
    parser.add_argument("--percentile", type=int, choices=(50, 95), default=95)
    parser.add_argument("--multiple-of", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=BenchmarkSettings().seconds, help="for one measurement at most"
    )
    parser.add_argument("--steps", type=float, default=0.04, help="relative distance of sizes in the brute force")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of a size in the brute force")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
