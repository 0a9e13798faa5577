"""Tables and the plot of `benchmarks.super_resolution` from its measurements."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.output import table
from inn_core.files import written_aside

Results = dict[str, Any]

TITLES = {"waifu2x": "waifu2x, pretrained", "edsr": "small EDSR, trained on photographs"}
QUALITIES = ("refined", "instant")


def tables(results: Results) -> str:
    """The report as Markdown; networks that were not measured are left out."""
    bicubic = results["bicubic"]["psnr"]
    lines = [
        "# Super-resolution x2 at every size",
        "",
        f"PSNR in dB of the luma (Y of BT.601) of 8-bit images, 2 pixels of border left out, mean of {len(bicubic)}",
        "photographs that neither calibration nor the training done here saw; small images by Pillow's bicubic filter.",
        "No size is made with large images. Every row is an exported ONNX file run in ONNX Runtime. Made by",
        "`python -m benchmarks.super_resolution`.",
        "",
        f"Bicubic interpolation: {mean(bicubic):.2f} dB.",
    ]
    for name, network in results.get("networks", {}).items():
        lines += ["", f"## {TITLES.get(name, name)}", "", *_sizes(network, bicubic)]
        lines += ["", *_by_photograph(network, bicubic), "", _conditions(network)]
    return "\n".join(lines) + "\n"


def draw(results: Results, path: Path) -> None:
    """PSNR over parameters: one picture a network, one line a quality, bicubic as a level."""
    from matplotlib.figure import Figure

    networks = results.get("networks", {})
    figure = Figure(figsize=(5 * max(len(networks), 1), 4), layout="constrained")
    grid = figure.subplots(1, max(len(networks), 1), squeeze=False)[0]
    bicubic = mean(results["bicubic"]["psnr"])
    for axes, (name, network) in zip(grid, networks.items(), strict=False):
        for quality in QUALITIES:
            rows = sorted([*network[quality], network["full"]], key=lambda row: int(row["params"]))
            axes.plot([row["params"] for row in rows], [mean(row["psnr"]) for row in rows], marker="o", label=quality)
        axes.axhline(bicubic, color="grey", linewidth=0.8, linestyle="--", label="bicubic")
        axes.set_title(TITLES.get(name, name))
        axes.set_xlabel("parameters")
        axes.set_ylabel("PSNR of luma, dB")
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    with written_aside(path) as writer:
        writer.write(buffer.getvalue())


def mean(scores: Mapping[str, float]) -> float:
    """Mean of the photographs' decibels."""
    return sum(scores.values()) / len(scores)


def least_gain(scores: Mapping[str, float], bicubic: Mapping[str, float]) -> float:
    """How far above bicubic a size is on the photograph where it gains least, in dB."""
    return min(scores[name] - bicubic[name] for name in bicubic)


def _sizes(network: Results, bicubic: Mapping[str, float]) -> list[str]:
    full = network["full"]
    head = [
        "size",
        "parameters",
        "multiply-accumulates",
        "PSNR",
        "below the full network",
        "above bicubic",
        "least above bicubic",
        "made by",
        "seconds",
    ]
    rows = [("full", full)] + [(quality, row) for quality in QUALITIES for row in network[quality]]
    return table(
        head,
        [
            [
                quality,
                f"{row['params']:,} ({100 * row['params'] / full['params']:.1f} %)",
                f"{100 * row['macs'] / full['macs']:.1f} %",
                f"{mean(row['psnr']):.2f}",
                f"{mean(full['psnr']) - mean(row['psnr']):.2f}",
                f"{mean(row['psnr']) - mean(bicubic):.2f}",
                f"{least_gain(row['psnr'], bicubic):.2f}",
                row["method"],
                f"{row['seconds']:.1f}",
            ]
            for quality, row in rows
        ],
    )


def _by_photograph(network: Results, bicubic: Mapping[str, float]) -> list[str]:
    full = network["full"]
    columns = [("bicubic", bicubic), ("full", full["psnr"])]
    columns += [(f"refined {100 * row['params'] / full['params']:.0f} %", row["psnr"]) for row in network["refined"]]
    rows = [[name, *(f"{scores[name]:.2f}" for _, scores in columns)] for name in bicubic]
    return table(["photograph", *(title for title, _ in columns)], rows)


def _conditions(network: Results) -> str:
    environment = network["environment"]
    return (
        f"{network['calibration_samples']} calibration patches; seconds are the whole export with its verification. "
        f"torch {environment['torch']}, {environment['threads']} of {environment['cores']} cores."
    )
