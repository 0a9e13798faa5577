"""Accuracy of every size of the demo network, without labels or training per size: `python -m benchmarks.accuracy`.

Sizes are 81, 64, 49, 36, 25, 12 and 6.4 % of the parameters; accuracy is top-1 on the 10,000 test images of
Fashion-MNIST (Debian's package `dataset-fashion-mnist`). Compared are `refined` and `instant` from the checkpoint, and
Torch-Pruning 1.6.1 at the best of its settings for each size, picked on the test images, which favours it; its column
is given as it comes and with BatchNorm statistics re-estimated on the calibration images that the checkpoint was made
with. Parameters of all are counted as in the ONNX file, BatchNorm folded (weight and bias of each convolution).

The rival needs the package `torch-pruning` (`pip install --no-deps torch-pruning==1.6.1`), no dependency of this
project. Results go to docs/results/accuracy.json, .md and .png; `--part` measures one half again and keeps the other.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.report import draw, tables
from benchmarks.output import say, sayer, write_text
from benchmarks.rivals import torch_pruning as rival
from inn_core.checkpoint.storage import load_checkpoint
from inn_core.exporting.curve import curve
from inn_core.files import file_digest
from inn_core.planning.plan import feasible_range
from inn_core.training.recipes.fashion_mnist import DEFAULT_FOLDER, fashion_mnist
from inn_core.training.recipes.images import to_pixels
from models.fashion_resnet import WEIGHTS, factory
from models.recipes.classifier import accuracy
from models.recipes.fashion_resnet import pick_calibration

SHARES = (0.81, 0.64, 0.49, 0.36, 0.25, 0.12, 0.064)
QUALITIES = ("refined", "instant")
CHECKPOINT = Path("models/checkpoints/fashion_resnet_imported.inn")
RESULTS = Path("docs/results/accuracy.json")
RECIPE_SEED = 0

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    results: dict[str, Any] = json.loads(options.output.read_text()) if options.output.is_file() else {}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    environment = {"torch": torch.__version__, "cores": os.cpu_count(), "threads": options.threads}
    if options.part in ("ours", "all"):
        results["ours"] = {**measure_ours(options.checkpoint, options.data), "environment": environment}
        _save(options.output, results)
    if options.part in ("rival", "all"):
        known = results.get("rival", {})
        if known.get("weights") != file_digest(WEIGHTS):
            known = {"weights": file_digest(WEIGHTS), "settings": {}}
        for partial in measure_rival(options.data, known["settings"]):
            results["rival"] = {**known, **partial, "environment": environment}
            _save(options.output, results)
    _check_same_network(results)
    report = tables(results, SHARES)
    write_text(options.output.with_suffix(".md"), report)
    draw(results, options.output.with_suffix(".png"))
    print(report)
    return 0


def measure_ours(checkpoint: Path, data: Path) -> dict[str, Any]:
    """All sizes of the integral network: `{"full": point, quality: [point, …]}` with the points of `curve`."""
    network = load_checkpoint(checkpoint)
    images, labels = fashion_mnist("test", folder=data)
    evaluation = {"image": to_pixels(images).numpy(), "labels": labels.astype(np.int64)}
    _, largest = feasible_range(network, "params")
    targets = [int(share * largest) for share in SHARES]
    results: dict[str, Any] = {"calibration_images": len(network.calibration["image"])}
    for quality in QUALITIES:
        measured = curve(
            network,
            data=evaluation,
            params=targets,
            quality=quality,
            progress=sayer(quality),
        )
        results["full"] = measured["full"]
        results[quality] = measured["points"]
    return results


def measure_rival(data: Path, known: Mapping[str, list[Row]]) -> Iterator[dict[str, Any]]:
    """All sizes of Torch-Pruning: `{"full": point, "settings": {name: [row, …]}}`, one row per size.

    Args:
        data: folder of the data set.
        known: settings that an earlier run measured on the same weights; they are kept.

    Yields:
        The results so far, after every setting, so that a run that is stopped loses little.
    """
    module, _ = factory()
    train_images, train_labels = fashion_mnist("train", folder=data)
    chosen = pick_calibration(len(train_images), seed=RECIPE_SEED)
    images, labels = to_pixels(train_images[chosen]), torch.from_numpy(train_labels[chosen].astype(np.int64))
    test = fashion_mnist("test", folder=data)
    full = {
        "params": rival.exported_parameters(module),
        "macs": rival.count_macs(module, images[:1]),
        "accuracy": accuracy(module, *test),
    }
    settings = dict(known)
    yield {"full": full, "settings": settings}
    for setting in rival.SETTINGS:
        if setting.name in settings:
            continue
        rows: list[Row] = []
        for share in SHARES:
            target = int(share * full["params"])
            pruned = rival.prune_to(module, target, setting=setting, images=images, labels=labels, classifier="head")
            rows.append(
                {
                    "params": pruned.params,
                    "macs": pruned.macs,
                    "seconds": round(pruned.seconds, 2),
                    "is_hit": pruned.is_hit,
                    "accuracy": accuracy(pruned.module, *test),
                    "accuracy_reestimated": accuracy(rival.reestimate_statistics(pruned.module, images), *test),
                }
            )
            say(f"{setting.name} at {100 * share:g} %: {100 * rows[-1]['accuracy_reestimated']:.1f} %")
        settings[setting.name] = rows
        yield {"full": full, "settings": settings}


def _check_same_network(results: dict[str, Any]) -> None:
    """Both halves must count the same parameters for the full network, or the comparison means nothing."""
    counts = {part: results[part]["full"]["params"] for part in results}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"the halves measured different networks ({counts} parameters): run --part all")


def _save(path: Path, results: dict[str, Any]) -> None:
    write_text(path, json.dumps(results, indent=1, sort_keys=True) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description="Accuracy of every size, against Torch-Pruning."
    )
    parser.add_argument("--part", choices=("ours", "rival", "all"), default="all")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the *-ubyte.gz files")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the .json; .md and .png are written beside it")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
