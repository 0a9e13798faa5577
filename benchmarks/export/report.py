"""The report of `benchmarks.export` as Markdown, from its measurements; parts that were not measured are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.output import table

Results = dict[str, Any]

EXPORTER_RATIO, WRITING_RATIO, MEMORY_RATIO = 15, 4, 3
"""Targets: at least, at most, at most."""

REFINED_SECONDS, REFINED_BYTES, DEMO_SECONDS = 360, 8 * 2**30, 10
HALF = 0.5
BUSY = 2.5
"""Load average above which timings of this run mean little on two cores."""


def report(results: Results) -> str:
    """The whole page."""
    lines = [
        "# Speed and memory of export",
        "",
        "Made by `python -m benchmarks.export` on a ResNet-50-shaped network with seeded random weights at 224x224,",
        "BatchNorm folded, and on the demo network. Exports end when the file is hashed and on the disk.",
        "",
        *_machine(results["machine"]),
    ]
    if "instant" in results:
        lines += ["", *_instant(results["instant"])]
    if "refined" in results:
        lines += ["", *_refined("ResNet-50 shape", results["refined"], REFINED_SECONDS)]
    if "demo" in results:
        lines += ["", *_refined("demo network", results["demo"], DEMO_SECONDS)]
    if "import" in results:
        done = results["import"]
        lines += [
            "",
            "## Import",
            "",
            f"ResNet-50 shape with {done['images']} images: {done['seconds'] / 60:.1f} minutes, checkpoint of "
            f"{_mega(done['bytes'])} MB.{_busy([done['load']])}",
        ]
    return "\n".join(lines) + "\n"


def _machine(machine: Results) -> list[str]:
    return [
        f"Machine: {machine['cpu']}, {machine['threads']} threads on {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB; Python {machine['python']}, torch {machine['torch']}, "
        f"onnx {machine['onnx']}, numpy {machine['numpy']}."
    ]


def _instant(measured: Results) -> list[str]:
    sizes = measured["sizes"]
    exporter, memory = measured["exporter"], measured["memory"]
    half = next(row for row in sizes if row["share"] == HALF)
    extra = memory["peak_bytes"] - memory["baseline_bytes"]
    targets = [
        _target(
            "torch exporter over instant, half size", exporter["seconds"] / half["plain"], EXPORTER_RATIO, least=True
        ),
        _target("instant over hash + write + fsync, half size", half["over_limit"], WRITING_RATIO),
        _target("peak memory over the checkpoint's size", extra / measured["checkpoint_bytes"], MEMORY_RATIO),
    ]
    stages = list(half["stages"])
    times = [
        [
            f"{100 * row['share']:g} %",
            f"{row['params'] / 1e6:.2f}",
            _mega(row["bytes"]),
            *(_milli(row["stages"][stage]) for stage in stages),
            _milli(row["plain"]),
            _milli(row["verified"]),
            _milli(row["limit"]),
            f"{row['over_limit']:.1f}",
        ]
        for row in sizes
    ]
    head = ["size", "M params", "MB", *stages, "whole", "whole, verified", "hash + write + fsync", "ratio"]
    moved, peak = measured["moved"], measured["peak"]
    copying = (moved["read"] + moved["written"]) / peak["bytes"]
    return [
        "## instant",
        "",
        *table(["target", "found", "wanted", "met"], targets),
        "",
        "Milliseconds, medians; `whole` is without running the artifact (`verify`), from call to file on the disk.",
        "",
        *table(head, times),
        "",
        f"`torch.onnx.export(dynamo=True)` of a plain network of {exporter['params'] / 1e6:.2f} M parameters, in turns "
        f"with the exports: {exporter['seconds']:.2f} s, neither hashed nor synced.{_busy(measured['load'])}",
        "",
        f"Memory in a fresh process that loads the {_mega(measured['checkpoint_bytes'])} MB checkpoint and exports the "
        f"half size: peak {_mega(memory['peak_bytes'])} MB, of which {_mega(memory['baseline_bytes'])} MB are there "
        f"after bare imports. Loading takes {memory['load_seconds']:.2f} s (every byte is hashed), this first export "
        f"{memory['seconds']:.2f} s.",
        "",
        f"Limit of the half size: the knots read and the file written are {_mega(moved['read'])} and "
        f"{_mega(moved['written'])} MB, {_milli(copying)} ms of plain copying at {peak['bytes'] / 1e9:.1f} GB/s; "
        f"hashing and writing takes {_milli(half['limit'])} ms.",
        "",
        "Functions with the most time of their own (profiled, half size):",
        "",
        *_functions(measured["functions"]),
    ]


def _refined(title: str, measured: Results, seconds: float) -> list[str]:
    manifest = measured["manifest"]
    whole = manifest["seconds"]["discretize"]
    parts = dict(measured["parts"])
    parts["other"] = max(whole - sum(parts.values()), 0.0)
    targets = [_target("seconds", measured["seconds"], seconds)]
    targets.append(_target("peak memory, GiB", measured["peak_bytes"] / 2**30, REFINED_BYTES / 2**30))
    limit = measured["normal_macs"] / measured["peak"]["macs"]
    return [
        f"## refined, {title} at {100 * measured['share']:g} %",
        "",
        *table(["target", "found", "wanted", "met"], targets),
        "",
        f"{measured['samples']} samples, method `{manifest['method']}`, {manifest['params']:,} parameters; the full "
        f"network has {measured['full_macs'] / 1e9:.3g} G multiply-accumulates a sample. Fresh process, profiled; "
        f"peak {_mega(measured['peak_bytes'])} MB, {_mega(measured['baseline_bytes'])} MB after bare imports."
        f"{_busy(measured['load'])}",
        "",
        *table(["stage", "seconds"], [[name, f"{value:.2f}"] for name, value in manifest["seconds"].items()]),
        "",
        *table(["part of discretize", "seconds"], [[name, f"{value:.2f}"] for name, value in parts.items()]),
        "",
        f"Limit: the normal equations need {measured['normal_macs'] / 1e9:,.0f} G multiply-accumulates, {limit:.1f} s "
        f"at the {measured['peak']['macs'] / 1e9:.0f} G a second that a large matrix product reaches here.",
        "",
        "Functions with the most time of their own:",
        "",
        *_functions(measured["functions"]),
    ]


def _target(name: str, found: float, wanted: float, *, least: bool = False) -> list[str]:
    met = found >= wanted if least else found <= wanted
    return [name, f"{found:.2f}", f"{'at least' if least else 'at most'} {wanted:g}", "yes" if met else "**no**"]


def _functions(rows: Sequence[Results]) -> list[str]:
    cells = [[f"`{row['function']}`", str(row["calls"]), f"{row['seconds']:.3f}"] for row in rows]
    return table(["function", "calls", "seconds"], cells)


def _busy(loads: Sequence[float]) -> str:
    most = max(loads)
    text = f" Load average of the machine around this part: {', '.join(f'{load:.1f}' for load in loads)}"
    return f"{text}: **others were computing, measure again.**" if most > BUSY else f"{text}."


def _mega(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.1f}"


def _milli(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"
