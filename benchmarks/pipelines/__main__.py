"""The pipelines of the paper on Fashion-MNIST, beside every rival, by the same rules: `python -m benchmarks.pipelines`.

    --part A          full size: the discrete network, trained on, and integral networks from it and from scratch
    --part B          10 to 50 % of the parameters removed, without fine-tuning: partitions, folding
    --part C          81 to 6.4 % of the parameters: ours, folding, Torch-Pruning
    --part slimmable  one slimmable network, at the sizes of C
    --part alone      a network of each size of C trained from scratch
    --part cost       seconds and steps until Torch-Pruning is as accurate as `--goal` at each size
    --part report     tables and plots of what was measured so far; the other parts write them, too

Every run trains on the 60,000 training images and measures the 10,000 test images once for each row; `--settings` tries
settings instead: it trains on 55,000 of them, measures the 5,000 others, leaves the test images alone and writes no
report. Rows go to docs/results/pipelines.json as they are measured, weights to build/pipelines; a run that was stopped
goes on with the next row, and a long training inside a row from its state. Parameters are counted as in the ONNX file,
BatchNorm folded. "ours, trained sizes" is of `--checkpoint`, what `inn train` wrote for that network and seed; asked
for with `--methods` and without a checkpoint, it is trained for the most of `--steps`. Parts C and cost need the
package `torch-pruning` (`pip install --no-deps torch-pruning==1.6.1`), which is no dependency of this project;
`--methods` leaves it out.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.networks.catalogue import NETWORKS
from benchmarks.pipelines import baselines, data, integral, ours, rivals
from benchmarks.pipelines.cost import goals
from benchmarks.pipelines.report import write_report
from benchmarks.pipelines.run import SHARES, Options, Run
from benchmarks.rows import Rows
from inn_core.errors import InnError
from inn_core.training.recipes.fashion_mnist import DEFAULT_FOLDER

RESULTS = Path("docs/results/pipelines.json")

REMOVED_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Sizes of part B: 10 to 50 % of the parameters removed, as in the paper's figure."""

QUICK = Options("", epochs=1, steps=(0, 2), shares=(0.5, 0.25))


def part_a(run: Run) -> None:
    """Full size."""
    baselines.discrete(run)
    integral.pipeline_a(run)


def part_b(run: Run) -> None:
    """Moderate removal without fine-tuning."""
    baselines.largest_filters(run, REMOVED_SHARES)
    integral.pipeline_b(run, REMOVED_SHARES)
    rivals.fold(run, REMOVED_SHARES)


def part_c(run: Run) -> None:
    """All sizes of ours, against folding and channel selection."""
    ours.ours(run, run.options.shares)
    rivals.fold(run, run.options.shares)
    rivals.pruning(run, run.options.shares)


def part_slimmable(run: Run) -> None:
    """One checkpoint, uniform widths."""
    rivals.slimmable(run, run.options.shares)


def part_cost(run: Run) -> None:
    """What equal accuracy costs the rival."""
    wanted = goals(run.rows.all(), run.options.goal, run.identity)
    if not wanted:
        raise SystemExit(f"no row of '{run.options.goal}' with seed {run.options.seed} was measured; measure it first")
    chosen = {share: goal for share, goal in wanted.items() if share in run.options.shares}
    if not chosen:
        raise SystemExit(f"'{run.options.goal}' was measured at {[*wanted]}, not at {[*run.options.shares]}")
    rivals.pruning_to_goal(run, chosen)


PARTS: Mapping[str, Callable[[Run], None]] = {
    "A": part_a,
    "B": part_b,
    "C": part_c,
    "slimmable": part_slimmable,
    "alone": baselines.alone,
    "cost": part_cost,
    "report": lambda run: None,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one part for each network and seed, then write tables and plots; returns the exit code."""
    given = _parser().parse_args(arguments)
    if given.checkpoint is not None and len(given.network) * len(given.seeds) > 1:
        raise SystemExit("--checkpoint is of one network and one seed; give one --network and one of --seeds")
    torch.set_num_threads(given.threads)
    loaded = None
    if given.part != "report":
        loaded = data.quick(with_test=not given.settings) if given.quick else None
        loaded = loaded or data.load(given.data, with_test=not given.settings)
    environment = {"torch": torch.__version__, "threads": given.threads, "cores": os.cpu_count()}
    output = given.output or (given.build / "quick.json" if given.quick else RESULTS)
    rows = Rows(output, environment=environment)
    for network in given.network:
        for seed in given.seeds:
            if loaded is not None:
                try:
                    PARTS[given.part](Run(_options(given, network, seed), loaded, rows))
                except InnError as error:
                    print(f"{error.code}: {error.message}", file=sys.stderr)
                    return 1
    if given.settings:
        return 0
    print(write_report([row for row in rows.all() if row["key"]["quick"] == given.quick], output))
    return 0


def _options(given: argparse.Namespace, network: str, seed: int) -> Options:
    """What was given, over the defaults of a real or a quick run."""
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in (
            "epochs",
            "steps",
            "rate",
            "slimmable_rate",
            "average_share",
            "shares",
            "methods",
            "pruning",
            "base",
            "goal",
            "checkpoint",
            "shared_seconds",
            "shared_steps",
        )
        if (value := getattr(given, name)) is not None
    }
    defaults = QUICK if given.quick else Options("")
    return replace(
        defaults,
        network=network,
        seed=seed,
        build=given.build,
        bfloat16=given.bfloat16,
        quick=given.quick,
        with_test=not given.settings,
        **chosen,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pipelines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Options("")
    parser.add_argument("--part", choices=tuple(PARTS), required=True)
    parser.add_argument("--network", nargs="+", choices=tuple(NETWORKS), default=["fashion_resnet"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, help=f"of the discrete network; default {default.epochs}")
    parser.add_argument("--steps", nargs="+", type=int, help=f"of training further; default {default.steps}")
    parser.add_argument("--rate", type=float, help=f"peak learning rate of those steps; default {default.rate}")
    parser.add_argument(
        "--slimmable-rate", type=float, help=f"of a slimmable network; default {default.slimmable_rate}"
    )
    parser.add_argument(
        "--average-share", type=float, help="of those steps, over which weights are averaged; default 0"
    )
    parser.add_argument("--shares", nargs="+", type=float, help=f"of the parameters; default {SHARES}")
    parser.add_argument("--methods", nargs="+", help="measure these only, by their names in the tables")
    parser.add_argument("--pruning", nargs="+", help="settings of Torch-Pruning, by their names in the tables")
    parser.add_argument("--goal", help=f"method whose accuracies part cost asks for; default '{default.goal}'")
    parser.add_argument(
        "--base",
        type=Path,
        help="weights (.safetensors) to start from; for --settings, weights that never saw the held-out images",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="N.inn",
        help="integral network with trained sizes, of the seed; for --settings, one that never saw the held-out images",
    )
    parser.add_argument("--shared-seconds", type=float, help="that its training took; its provenance when left out")
    parser.add_argument("--shared-steps", type=int, help="gradient steps of that training; its provenance as well")
    parser.add_argument("--settings", action="store_true", help="try settings: test images are not looked at")
    parser.add_argument("--quick", action="store_true", help="tiny networks and made-up images, for tests")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=default.bfloat16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the *-ubyte.gz files")
    parser.add_argument("--build", type=Path, default=default.build, help="folder of weights and training states")
    parser.add_argument("--output", type=Path, help=f"the .json; .md and .png are written beside it; default {RESULTS}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
