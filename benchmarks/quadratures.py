"""Accuracy of the paper's plain integral networks under every quadrature, grid and interpolation: quality `uniform`.

    python -m benchmarks.quadratures [--checkpoint NAME]…

Both shipped checkpoints are sampled at shares of their parameters, and judged on the 10,000 test images of
Fashion-MNIST.
As in every export of this quality, moments of the sampled sizes are measured on the samples that the checkpoint keeps.
A run that was stopped goes on; processes for single checkpoints may run at a time.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.output import say, table, write_text
from benchmarks.rows import Rows
from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import load_checkpoint
from inn_core.discretize.discretize import discretize
from inn_core.graph.program import Program
from inn_core.graph.resized import resize_template
from inn_core.integral.interpolation import Grid, Interpolation
from inn_core.integral.kernel import KernelSampling
from inn_core.integral.quadrature import Quadrature
from inn_core.planning.plan import Budget, choose_plan, feasible_range
from inn_core.training.recipes.fashion_mnist import fashion_mnist

SHARES = (0.81, 0.64, 0.49, 0.36, 0.25)
NAMES = ("fashion_resnet_imported", "fashion_resnet")
RULES = (
    (Quadrature.RIEMANN, Grid.CELL_CENTRED),
    (Quadrature.GAUSS_LEGENDRE, Grid.CELL_CENTRED),
    (Quadrature.RIEMANN, Grid.END_POINT),
    (Quadrature.TRAPEZOID, Grid.END_POINT),
    (Quadrature.SIMPSON, Grid.END_POINT),
    (Quadrature.GAUSS_LEGENDRE, Grid.END_POINT),
)
"""The rules with the grids that they go with; trapezoid and Simpson need points at 0 and 1."""
BATCH = 500
READING = (
    "",
    "## Reading",
    "",
    "- Chance moves an accuracy near 90 % on 10,000 images by 0.3 points (one standard deviation).",
    "- Riemann's rule and the trapezoid rule, whose weights are equal but for the ends, are best at every size, and as",
    "  good as each other.",
    "- Simpson's rule and Gauss-Legendre lose, the more the smaller the size. Their weights or points differ from",
    "  those of equal channels, which pays where a kernel is smooth. A likely reason: kernels of these networks are",
    "  not smooth from one channel to the next, even in the best order that is found.",
    "- With Riemann's rule the end-point grid is a little better at 25 % and alike above 36 %; linear and cubic",
    "  interpolation are alike. Cubic and cell-centred stay the default: partitions are tuned on that grid alone.",
)
"""What the tables show, to be read again when they change."""
RESULTS = Path("docs/results/quadratures")
CHECKPOINTS = Path("models/checkpoints")


def main() -> None:
    """Measure what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", action="append", choices=NAMES, help="measure only this one; repeatable")
    chosen = parser.parse_args().checkpoint or NAMES
    torch.set_num_threads(1)
    images, labels = fashion_mnist("test")
    pixels = images[:, None].astype(np.float32) / 255
    rows = Rows(RESULTS.with_suffix(".json"), environment={"torch": torch.__version__, "threads": 1})
    for name in chosen:
        checkpoint = load_checkpoint(CHECKPOINTS / f"{name}.inn")
        for sampling in samplings():
            key = {"checkpoint": name, "quadrature": str(sampling)}
            found = rows.measured(key, lambda: accuracies(checkpoint, str(sampling), pixels, labels))  # noqa: B023  # called here
            say(f"{name} {sampling}: {found['accuracies']}")
    write_text(RESULTS.with_suffix(".md"), report(rows))


def samplings() -> list[KernelSampling]:
    """Everything that is measured."""
    return [
        KernelSampling(interpolation, rule, grid) for interpolation in reversed(Interpolation) for rule, grid in RULES
    ]


def accuracies(checkpoint: Checkpoint, quadrature: str, images: Array, labels: Array) -> dict[str, Any]:
    """Accuracy at every share of the parameters."""
    _, largest = feasible_range(checkpoint, "params")
    found = []
    for share in SHARES:
        plan = choose_plan(checkpoint, Budget("params", round(share * largest)))
        sized = discretize(checkpoint, plan, quality="uniform", quadrature=quadrature, device="cpu")
        program = Program(resize_template(checkpoint.template, checkpoint.structure, plan.sizes))
        weights = {name: torch.from_numpy(array.copy()) for name, array in sized.weights.items()}
        with torch.inference_mode():
            parts = torch.from_numpy(images).split(BATCH)
            outputs = [program.run(weights, {program.inputs[0]: part})[program.outputs[0]] for part in parts]
        found.append(float(np.mean(torch.cat(outputs).argmax(1).numpy() == labels)))
    return {"accuracies": found}


def report(rows: Rows) -> str:
    """The tables of all checkpoints that were measured; accuracy in percent."""
    lines = [
        "# Quadratures of the plain integral network",
        "",
        "`python -m benchmarks.quadratures`: accuracy in percent on the 10,000 test images of Fashion-MNIST of quality",
        "`uniform` (kernels in smoothing order at a uniform partition, no weight trained or fitted), at shares of the",
        "parameters. As in every export of this quality, means and variances of sampled sizes are measured anew, on",
        "the 1,024 training images that the checkpoint keeps. One thread of a CPU; nothing is random. Each of these",
        "networks is made by `inn export --quality uniform --quadrature RULE,INTERPOLATION,GRID`.",
    ]
    for name in NAMES:
        measured = [row for row in rows.all() if row["key"]["checkpoint"] == name]
        if not measured:
            continue
        lines += ["", f"## `{name}`", ""]
        found = {row["key"]["quadrature"]: row["found"]["accuracies"] for row in measured}
        head = ["quadrature", "grid", "interpolation", *(f"{share:.0%}" for share in SHARES)]
        lines += table(
            head,
            [
                [each.quadrature, each.grid, each.interpolation, *(f"{100 * point:.2f}" for point in found[str(each)])]
                for each in samplings()
                if str(each) in found
            ],
        )
    return "\n".join([*lines, *READING]) + "\n"


if __name__ == "__main__":
    main()
