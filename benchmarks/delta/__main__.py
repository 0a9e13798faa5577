"""What two sizes of one checkpoint share, and whether sending the difference pays: `python -m benchmarks.delta`.

For every quality that a checkpoint offers and for pairs of neighbouring and distant sizes: the bytes of the second
artifact whole and compressed in several ways, and what a node would have to fetch that has the first one already: byte
deltas, the tensors' difference channel by channel, and the bound for an order that is nested, in which only rows and
columns that are missing are sent. Writes docs/results/delta.md; measured rows stay in the work folder and are not
measured again.

More checkpoints are given as arguments (`python -m benchmarks.delta A.inn B.inn`), for instance one with trained sizes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.delta.report import report
from benchmarks.delta.tensors import compare
from benchmarks.output import say, write_text
from benchmarks.rows import Rows
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import load_checkpoint
from inn_core.exporting.export import export_artifact
from inn_core.planning.plan import Budget, feasible_range

try:
    import bsdiff4
    import zstandard
except ImportError as error:  # pragma: no cover
    sys.exit(f"{error}; this benchmark compares compressors: pip install zstandard bsdiff4")

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "delta.md"
DEMO = ROOT / "models" / "checkpoints" / "fashion_resnet.inn"
WORK = ROOT / "build" / "benchmarks" / "delta"
NO_DIGEST = "sha256:" + "0" * 64

QUALITIES = ("refined", "instant", "trained")
PAIRS = ((0.25, 0.27), (0.5, 0.54), (0.54, 0.5), (0.25, 0.5), (0.5, 0.25))
"""Shares of the full network's parameters: what the node has, what it is to have."""
ZSTD_FAST, ZSTD_BEST = 3, 19

Json = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    options = _parser().parse_args(arguments)
    rows = Rows(options.work / "rows.json", environment={"load": os.getloadavg()[0]})
    for path in options.checkpoint or [DEMO]:
        network = load_checkpoint(path)
        for quality in QUALITIES:
            if quality in network.qualities:
                for pair in PAIRS:
                    key = {"network": network.name, "checkpoint": path.stem, "quality": quality, "pair": list(pair)}
                    say(f"{path.stem}: {quality}, {pair[0]:.0%} to {pair[1]:.0%}")
                    rows.measured(key, partial(measure, network, quality, pair, options.work / path.stem))
    text = report(rows.all())
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.output, text)
    print(text)
    return 0


def measure(checkpoint: Checkpoint, quality: str, pair: tuple[float, float], folder: Path) -> Json:
    """Bytes and seconds of every way to send the second artifact of a pair."""
    (had, before), (wanted, after) = (artifact(checkpoint, quality, share, folder) for share in pair)
    old, new = had.read_bytes(), wanted.read_bytes()
    packed = zstandard.ZstdCompressor(level=ZSTD_BEST).compress(new)
    tensors = compare(checkpoint, before["group_sizes"], after["group_sizes"], had, wanted)
    ways = {
        "gzip": _timed(lambda: gzip.compress(new, 6)),
        "zstd 3": _timed(lambda: zstandard.ZstdCompressor(level=ZSTD_FAST).compress(new)),
        "zstd 19": _timed(lambda: zstandard.ZstdCompressor(level=ZSTD_BEST).compress(new)),
        "lzma": _timed(lambda: lzma.compress(new)),
        "shuffled, zstd 19": _zstd(tensors.shuffled),
        "float16": {"bytes": tensors.float16_bytes},
        "float16, zstd 19": _zstd(tensors.float16),
        "zstd --patch-from": _timed(lambda: _patch(old, new)),
        "bsdiff": _timed(lambda: bsdiff4.diff(old, new)),
        "tensor difference, zstd 19": _zstd(tensors.difference),
        "changed or missing numbers": {"bytes": tensors.changed_bytes},
        "missing rows and columns": {"bytes": tensors.missing_bytes},
    }
    return {
        "params": [before["params"], after["params"]],
        "bytes": [len(old), len(new)],
        "methods": [before["method"], after["method"]],
        "shared": tensors.shared,
        "equal": tensors.equal,
        "distance": tensors.distance,
        "ways": ways,
        "unpack": {"zstd 19": _timed(lambda: zstandard.ZstdDecompressor().decompress(packed))["seconds"]},
    }


def artifact(checkpoint: Checkpoint, quality: str, share: float, folder: Path) -> tuple[Path, Json]:
    """An artifact and its manifest, kept in the work folder from run to run."""
    path = folder / f"{quality}-{share}.onnx"
    noted = path.with_suffix(".json")
    if not noted.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        budget = Budget("params", int(share * feasible_range(checkpoint, "params")[1]))
        made = export_artifact(
            checkpoint, budget, quality=quality, path=path, checkpoint_digest=NO_DIGEST, device="cpu", verify=False
        )
        write_text(noted, json.dumps(made))
    manifest: Json = json.loads(noted.read_text())
    return path, manifest


def _patch(old: bytes, new: bytes) -> bytes:
    """What `zstd --patch-from` does: the old file is the dictionary, and the window reaches over both."""
    dictionary = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    window = min(zstandard.WINDOWLOG_MAX, max(zstandard.WINDOWLOG_MIN, (len(old) + len(new)).bit_length() + 1))
    parameters = zstandard.ZstdCompressionParameters.from_level(ZSTD_BEST, window_log=window, enable_ldm=True)
    patch: bytes = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters).compress(new)
    return patch


def _zstd(data: bytes) -> Json:
    return _timed(lambda: zstandard.ZstdCompressor(level=ZSTD_BEST).compress(data))


def _timed(make: Callable[[], bytes]) -> Json:
    began = time.perf_counter()
    made = make()
    return {"bytes": len(made), "seconds": time.perf_counter() - began}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delta", description="What two sizes share.")
    parser.add_argument("checkpoint", type=Path, nargs="*", help="`.inn` files; the demo checkpoint when left out")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for artifacts and measured rows")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
