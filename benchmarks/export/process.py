"""One export in a process of its own, as JSON: seconds by stage, memory, work and where the time went.

`python -m benchmarks.export.process CHECKPOINT --share 0.5 --quality refined --output OUT.onnx`. A fresh process is the
only one whose peak memory says anything; `benchmarks.export` starts it. Linux only: memory is read from /proc.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PARTS = {
    "run both networks": (("program.py", "step"),),
    "gather rows": (("linear_nodes.py", "input_rows"), ("linear_nodes.py", "output_rows"), ("selection.py", "take")),
    "normal equations": (("least_squares.py", "add"),),
    "solve": (("least_squares.py", "solve"),),
    "distill": (("distillation.py", "prepare_teacher"), ("distillation.py", "distill")),
    "held-out scores": (("runtime.py", "run_outputs"),),
}
"""Functions of inn_core whose time, with all they call, makes a part of a refined export; none calls another one."""

CALLERS = {("program.py", "step"): "lockstep.py", ("selection.py", "take"): "lockstep.py"}
"""Functions that also run elsewhere: only calls from this file count."""

SHOWN = 12  # functions


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, print one JSON object; returns the exit code."""
    options = _parser().parse_args(arguments)
    import torch

    from inn_core.checkpoint.storage import load_checkpoint
    from inn_core.discretize.discretize import (
        discretize,  # all that an export imports, so that the baseline is bare imports
    )
    from inn_core.exporting.export import export_artifact
    from inn_core.fitting.least_squares import NormalEquations
    from inn_core.planning.plan import Budget, feasible_range

    assert discretize is not None
    torch.set_num_threads(options.threads)
    baseline = peak_memory_bytes()
    began = time.perf_counter()
    network = load_checkpoint(options.checkpoint)
    load_seconds = time.perf_counter() - began
    work = count_work_(NormalEquations)
    budget = Budget("params", int(options.share * feasible_range(network, "params")[1]))
    profile = cProfile.Profile() if options.profile else None
    began = time.perf_counter()
    if profile:
        profile.enable()
    manifest = export_artifact(
        network,
        budget,
        quality=options.quality,
        path=options.output,
        checkpoint_digest="sha256:" + "0" * 64,
        device="cpu",
        verify=options.verify,
    )
    if profile:
        profile.disable()
    seconds = time.perf_counter() - began
    result: dict[str, Any] = {
        "manifest": manifest,
        "load_seconds": load_seconds,
        "seconds": seconds,
        "baseline_bytes": baseline,
        "peak_bytes": peak_memory_bytes(),
        "normal_macs": work["macs"],
    }
    if profile:
        stats = pstats.Stats(profile)
        result["parts"] = seconds_by_part(stats)
        result["functions"] = busiest(stats)
    json.dump(result, sys.stdout)
    return 0


def peak_memory_bytes() -> int:
    """The most memory this process has had resident (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("error: /proc/self/status has no VmHWM; this benchmark runs on Linux only")


def count_work_(equations: Any) -> dict[str, int]:
    """Make the class count the multiply-accumulates that its rows need: a triangle of Z^T Z, and T^T Z.

    Returns:
        `{"macs": count so far}`, which grows.
    """
    work = {"macs": 0}
    add = equations.add

    def counted(self: Any, inputs: Any, targets: Any) -> None:
        blocks, rows, n = inputs.shape
        work["macs"] += blocks * rows * n * ((n + 1) // 2 + targets.shape[2])
        add(self, inputs, targets)

    equations.add = counted
    return work


def seconds_by_part(stats: pstats.Stats) -> dict[str, float]:
    """Seconds of every part in `PARTS`, with all that its functions call."""
    result = dict.fromkeys(PARTS, 0.0)
    table: dict[Any, Any] = stats.stats  # type: ignore[attr-defined]  # public since ever, missing in the stubs
    for (path, _, name), (_, _, _, cumulative, callers) in table.items():
        key = Path(path).name, name
        part = next((part for part, functions in PARTS.items() if key in functions), None)
        if part is None or "inn_core" not in Path(path).parts:
            continue
        if key in CALLERS:
            cumulative = sum(entry[3] for (file, _, _), entry in callers.items() if Path(file).name == CALLERS[key])
        result[part] += cumulative
    return result


def busiest(stats: pstats.Stats) -> list[dict[str, Any]]:
    """The functions with the most time of their own."""
    table: dict[Any, Any] = stats.stats  # type: ignore[attr-defined]  # as above
    rows = sorted(table.items(), key=lambda item: -item[1][2])[:SHOWN]
    return [
        {"function": _function(path, line, name), "calls": calls, "seconds": own}
        for (path, line, name), (_, calls, own, _, _) in rows
    ]


def _function(path: str, line: int, name: str) -> str:
    if path == "~":
        plain = name.strip("<>").removeprefix("built-in method ").removeprefix("method ")
        return plain.replace("'", "").removesuffix(" objects")
    return f"{Path(path).name}:{line} {name}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export.process", description="One export, measured.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--share", type=float, required=True, help="of the parameters of the full network")
    parser.add_argument("--quality", choices=("refined", "instant"), required=True)
    parser.add_argument("--output", type=Path, required=True, help="ONNX file to write")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--verify", action="store_true", help="run the artifact before it is published")
    parser.add_argument("--profile", action="store_true", help="also say where the time goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
