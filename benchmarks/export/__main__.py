"""Speed and memory of export: `python -m benchmarks.export` prints tables and writes docs/results/export.md.

On a ResNet-50-shaped network with seeded random weights (25.5 M parameters once normalization is folded, 224x224):

- `instant` at several sizes, end to end in a warm process, against `torch.onnx.export(dynamo=True)` of a plain network
  of the half size and against hashing and writing the same bytes, all in turns, so that a busy moment meets all;
- peak memory of a fresh process that loads the checkpoint and exports `instant`, against the checkpoint's size;
- `refined` at the half size in a fresh process: seconds, memory and where the time goes.

And `refined` on the demo checkpoint at a quarter of its size. The checkpoint of the large network is imported once and
kept in the work folder, with the results of every part: `--part` measures one again.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import io
import json
import logging
import os
import pstats
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from benchmarks.export.process import busiest
from benchmarks.export.report import report
from benchmarks.networks import resnet50
from benchmarks.output import say, sayer, write_text
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import load_checkpoint, save_checkpoint
from inn_core.exporting.export import export_artifact
from inn_core.importing.pipeline import import_network
from inn_core.planning.plan import Budget, choose_plan, feasible_range

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "export.md"
DEMO = ROOT / "models" / "checkpoints" / "fashion_resnet.inn"
WORK = ROOT / "build" / "benchmarks"
FACTORY = "benchmarks.networks.resnet50:factory"
NO_DIGEST = "sha256:" + "0" * 64

PARTS = ("import", "instant", "refined", "demo")
SHARES = (0.8, 0.5, 0.4, 0.25, 0.1)
HALF, QUARTER = 0.5, 0.25
IMAGES = 64
ROUNDS = 7
EXPORTER_ROUNDS = 3  # the exporter takes seconds
PROBE = 2048  # side of the matrices of the arithmetic probe
PROBE_BYTES = 2**26

Results = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    kept = options.work / "export.json"
    results: Results = json.loads(kept.read_text()) if kept.is_file() else {}
    checkpoint = options.work / "resnet50.inn"
    wanted = [part for part in PARTS if part in options.part] if options.part else list(PARTS)
    if "import" in wanted and (options.part or not checkpoint.is_file()):
        results["import"] = measure_import(checkpoint, images=options.images)
        _keep(kept, results)
    if "instant" in wanted:
        results["instant"] = measure_instant(checkpoint, options.work, threads=options.threads, rounds=options.rounds)
        _keep(kept, results)
    if "refined" in wanted:
        results["refined"] = measure_refined(checkpoint, HALF, options.work, threads=options.threads)
        _keep(kept, results)
    if "demo" in wanted:
        results["demo"] = measure_refined(options.demo, QUARTER, options.work, threads=options.threads)
        _keep(kept, results)
    results["machine"] = machine(options.threads)
    _keep(kept, results)
    text = report(results)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.output, text)
    print(text)
    return 0


def measure_import(path: Path, *, images: int) -> Results:
    """Import the large network and write its checkpoint: seconds and load."""
    load = os.getloadavg()[0]
    began = time.perf_counter()
    samples = {"image": resnet50.make_images(images)}
    network = import_network(FACTORY, samples, name="resnet50", device="cpu", progress=sayer("import"))
    seconds = time.perf_counter() - began
    save_checkpoint(network, path)
    return {"seconds": seconds, "images": images, "bytes": path.stat().st_size, "load": load}


def measure_instant(checkpoint: Path, folder: Path, *, threads: int, rounds: int) -> Results:
    """Instant exports, the exporter of torch, and hashing and writing alone, in turns; memory in a fresh process."""
    load = os.getloadavg()[0]
    network = load_checkpoint(checkpoint)
    full = feasible_range(network, "params")[1]
    half = half_network(full)
    say("warming up")
    time_exporter(half, folder / "plain.onnx")
    sizes = {share: export_once(network, int(share * full), folder, verify=True) for share in SHARES}
    exporter: list[float] = []
    rows: dict[float, list[Results]] = {share: [] for share in SHARES}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        if number < EXPORTER_ROUNDS:
            exporter.append(time_exporter(half, folder / "plain.onnx"))
        for share in SHARES:
            plain = export_once(network, int(share * full), folder, verify=False)
            data = (folder / "instant.onnx").read_bytes()
            limit = time_writing(data, folder / "bytes.bin")
            checked = export_once(network, int(share * full), folder, verify=True)
            rows[share].append({"plain": plain, "verified": checked, "limit": limit})
    say("memory in a fresh process")
    memory = in_fresh_process(checkpoint, HALF, "instant", folder / "fresh.onnx", threads=threads)
    return {
        "load": [load, os.getloadavg()[0]],
        "checkpoint_bytes": checkpoint.stat().st_size,
        "exporter": {"seconds": statistics.median(exporter), "params": resnet50.count_folded_parameters(half)},
        "sizes": [
            {"share": share, "params": sizes[share]["params"], "bytes": sizes[share]["bytes"]} | medians(rows[share])
            for share in SHARES
        ],
        "memory": memory,
        "functions": profile_instant(network, int(HALF * full), folder),
        "moved": moved_bytes(network, int(HALF * full)),
        "peak": machine_peak(),
    }


def export_once(checkpoint: Checkpoint, params: int, folder: Path, *, verify: bool) -> Results:
    """One instant export: its seconds from call to file on the disk, by stage, with its size."""
    began = time.perf_counter()
    manifest = export_artifact(
        checkpoint,
        Budget("params", params),
        quality="instant",
        path=folder / "instant.onnx",
        checkpoint_digest=NO_DIGEST,
        device="cpu",
        verify=verify,
    )
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "stages": manifest["seconds"], "params": manifest["params"], "bytes": manifest["bytes"]}


def medians(rows: Sequence[Results]) -> Results:
    """Medians over the rounds of one size, the median ratio of an export to its own limit, and medians by stage."""
    stages = rows[0]["plain"]["stages"]
    return {
        "plain": statistics.median(row["plain"]["seconds"] for row in rows),
        "verified": statistics.median(row["verified"]["seconds"] for row in rows),
        "limit": statistics.median(row["limit"] for row in rows),
        "over_limit": statistics.median(row["plain"]["seconds"] / row["limit"] for row in rows),
        "stages": {
            stage: statistics.median(row["verified" if stage == "verify" else "plain"]["stages"][stage] for row in rows)
            for stage in stages
        },
    }


def half_network(params: int) -> torch.nn.Module:
    """A plain network of the same architecture with half the parameters, made by thinner layers."""
    low, high = 0.1, 1.0
    for _ in range(20):
        width = (low + high) / 2
        with torch.device("meta"):
            count = resnet50.count_folded_parameters(resnet50.ResNet50(width=width))
        low, high = (low, width) if count > params // 2 else (width, high)
    return resnet50.make_network(width=low)


def time_exporter(module: torch.nn.Module, path: Path) -> float:
    """Seconds of `torch.onnx.export(dynamo=True)` into one file, with a free batch axis, quietly."""
    example = torch.zeros(2, 3, resnet50.IMAGE_SIZE, resnet50.IMAGE_SIZE)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            began = time.perf_counter()
            torch.onnx.export(
                module,
                (example,),
                path,
                dynamo=True,
                external_data=False,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                verbose=False,
            )
            return time.perf_counter() - began
    finally:
        logger.setLevel(level)


def time_writing(data: bytes, path: Path) -> float:
    """Seconds to hash bytes, write them to a new file and have them on the disk: what no export can do without."""
    path.unlink(missing_ok=True)
    began = time.perf_counter()
    hashlib.sha256(data).hexdigest()
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began


def in_fresh_process(
    checkpoint: Path, share: float, quality: str, output: Path, *, threads: int, flags: Sequence[str] = ()
) -> Results:
    """What `benchmarks.export.process` says of one export."""
    command = [sys.executable, "-m", "benchmarks.export.process", str(checkpoint), "--share", str(share)]
    command += ["--quality", quality, "--output", str(output), "--threads", str(threads), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    result: Results = json.loads(done.stdout)
    return result


def measure_refined(checkpoint: Path, share: float, folder: Path, *, threads: int) -> Results:
    """One refined export in a fresh process, profiled, and the work that it cannot do without."""
    load = os.getloadavg()[0]
    say(f"refined at {share:.0%} of {checkpoint.name}")
    flags = ("--profile", "--verify")
    result = in_fresh_process(checkpoint, share, "refined", folder / "refined.onnx", threads=threads, flags=flags)
    network = load_checkpoint(checkpoint)
    full_macs = choose_plan(network, Budget("params", feasible_range(network, "params")[1])).macs
    count = len(next(iter(network.calibration.values())))
    return {
        **result,
        "load": [load, os.getloadavg()[0]],
        "share": share,
        "samples": count,
        "full_macs": full_macs,
        "checkpoint_bytes": checkpoint.stat().st_size,
        "peak": machine_peak(),
    }


def profile_instant(checkpoint: Checkpoint, params: int, folder: Path) -> list[Results]:
    """The functions of one instant export with the most time of their own."""
    profile = cProfile.Profile()
    profile.enable()
    export_once(checkpoint, params, folder, verify=False)
    profile.disable()
    return busiest(pstats.Stats(profile))


def moved_bytes(checkpoint: Checkpoint, params: int) -> Results:
    """What an instant export reads and writes at least: the anchors above and below the plan, and the artifact."""
    from inn_core.sized.anchors import contains

    plan = choose_plan(checkpoint, Budget("params", params))
    anchors = checkpoint.anchors
    above = [anchor for anchor in anchors if contains(anchor.sizes, plan.sizes)][-1]
    below = next((each for each in anchors if each is not above and contains(plan.sizes, each.sizes)), None)
    read = sum(array.nbytes for array in (above.weights or checkpoint.weights).values())
    for inputs in above.inputs.values():
        read += inputs.correlation.nbytes + inputs.scale.nbytes + inputs.mean.nbytes
    if below is not None:
        read += sum(array.nbytes for array in below.weights.values())
    return {"read": read, "written": plan.bytes}


def machine_peak() -> Results:
    """What the machine can do right now: float32 multiply-accumulates and bytes copied, per second."""
    matrix, source, target = torch.ones(PROBE, PROBE), np.ones(PROBE_BYTES, np.uint8), np.zeros(PROBE_BYTES, np.uint8)
    return {
        "macs": PROBE**3 / _fastest(lambda: matrix @ matrix),
        "bytes": PROBE_BYTES / _fastest(lambda: np.copyto(target, source)),
    }


def _fastest(call: Callable[[], Any], repeats: int = 5) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def machine(threads: int) -> Results:
    """What the figures were measured on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].split(":", 1)[1].strip() if names else "unknown",
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
    }


def _keep(path: Path, results: Results) -> None:
    write_text(path, json.dumps(results, indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description="Speed and memory of export.")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for the imported network and temporary files")
    parser.add_argument("--part", action="append", choices=PARTS, help="measure only this; may be given several times")
    parser.add_argument("--demo", type=Path, default=DEMO, help="the demo checkpoint")
    parser.add_argument("--images", type=int, default=IMAGES, help="calibration images of the import")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which medians are taken")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
