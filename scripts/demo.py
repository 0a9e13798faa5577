"""The demo: one checkpoint, several sizes on request, real images inferred with each, all over HTTP.

`make demo` runs it. It starts a hub on a free loopback port with a store that is thrown away, asks it for half, a
quarter and a tenth of the parameters of the demo network, sends 300 test images to each through POST /infer, prints a
table and stops the hub. Nothing is trained.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from inn_core.progress import Progress, scaled
from scripts.hub_process import HubError, running_hub
from service.terminal import note, print_error, print_table, progress_reports

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "models" / "checkpoints" / "fashion_resnet.inn"
IMAGES = ROOT / "models" / "demo" / "fashion_images.npz"
MODEL = "fashion_resnet"
SHARES = (0.5, 0.25, 0.1)
TIMED_REQUESTS = 20
POLL_SECONDS = 0.1
REQUEST_SECONDS = 120.0


class ExportFailedError(RuntimeError):
    """The hub answered that a build failed."""


@dataclass(frozen=True)
class Row:
    """What one size did: its manifest, its answers and how long they took."""

    asked: int
    manifest: dict[str, Any]
    predicted: NDArray[np.int64]  # shape: (n_images,)
    export_seconds: float
    infer_seconds: float


def main() -> int:
    """Run the demo; returns the exit code."""
    for path in (CHECKPOINT, IMAGES):
        if not path.is_file():
            print_error(
                "file-not-found", f"'{path}' does not exist; it belongs to the repository: git checkout -- models"
            )
            return 1
    with np.load(IMAGES) as data:
        images = data["images"][:, None].astype(np.float32) / 255.0
        labels = data["labels"].astype(np.int64)
    with tempfile.TemporaryDirectory(prefix="inn-demo-") as folder:
        log_path = Path(folder) / "hub.log"
        try:
            with progress_reports("demo") as report, log_path.open("wb") as log:
                report("starting a hub", 0.0)
                with (
                    running_hub(Path(folder) / "store", imports=[CHECKPOINT], log=log) as address,
                    httpx.Client(base_url=address, timeout=REQUEST_SECONDS) as client,
                ):
                    rows = measure(client, images, report)
                    report("stopping the hub", 0.99)
        except (HubError, httpx.HTTPError, ExportFailedError) as exc:
            note(log_path.read_text(encoding="utf-8", errors="replace"))
            print_error("demo-failed", f"{exc}; the log of the hub is above")
            return 1
        except KeyboardInterrupt:
            print_error("interrupted", "stopped from the keyboard; the hub is stopped, its store is removed")
            return 130
    note(f"{len(labels)} test images of Fashion-MNIST, one checkpoint, trained in its sizes")
    print_rows(rows, labels)
    return 0


def measure(client: httpx.Client, images: NDArray[np.float32], report: Progress) -> list[Row]:
    """Export the full network and each size, and infer every image with each."""
    full = int(client.get(f"/models/{MODEL}").raise_for_status().json()["feasible"]["max"])
    targets = [full, *(int(full * share) for share in SHARES)]
    rows = []
    for index, target in enumerate(targets):
        start, share = 0.05 + 0.9 * index / len(targets), 0.9 / len(targets)
        began = time.perf_counter()
        manifest = export(client, target, scaled(report, start, start + 0.9 * share))
        export_seconds = time.perf_counter() - began
        report(f"{target:,} params: inferring", start + 0.9 * share)
        predicted = np.asarray(infer(client, target, images)).argmax(axis=1)
        durations = []
        for number in range(TIMED_REQUESTS):
            began = time.perf_counter()
            infer(client, target, images[number : number + 1])
            durations.append(time.perf_counter() - began)
        rows.append(Row(target, manifest, predicted, export_seconds, statistics.median(durations)))
    return rows


def export(client: httpx.Client, target: int, report: Progress) -> dict[str, Any]:
    """POST /export without waiting, then follow the job; returns the manifest."""
    request = {"model": MODEL, "target_params": target}
    answer = client.post("/export", json=request, headers={"Prefer": "wait=0"}).raise_for_status()
    while answer.status_code == httpx.codes.ACCEPTED or "state" in answer.json():
        job = answer.json()
        if job["state"] == "done":
            return dict(job["result"])
        if job["state"] in ("failed", "cancelled"):
            raise ExportFailedError(f"the export of {target:,} parameters failed: {job.get('problem')}")
        report(f"{target:,} params: {job.get('stage') or 'waiting'}", float(job.get("progress") or 0.0))
        time.sleep(POLL_SECONDS)
        answer = client.get(answer.headers.get("Location", answer.request.url.path)).raise_for_status()
    return dict(answer.json())


def infer(client: httpx.Client, target: int, images: NDArray[np.float32]) -> list[list[float]]:
    """POST /infer with images, shape `(n, 1, 28, 28)`; returns their logits, shape `(n, 10)`."""
    request = {"model": MODEL, "target_params": target, "inputs": {"image": images.tolist()}}
    logits: list[list[float]] = client.post("/infer", json=request).raise_for_status().json()["outputs"]["logits"]
    return logits


def print_rows(rows: list[Row], labels: NDArray[np.int64]) -> None:
    """Print one line a size; accuracy against the labels, agreement with the full network, both on these images."""
    full = rows[0]
    print_table(
        ("asked", "got", "of full", "bytes", "accuracy", "agreement", "export s", "infer ms"),
        [
            (
                f"{row.asked:,}",
                f"{row.manifest['params']:,}",
                f"{row.manifest['params'] / full.manifest['params']:.1%}",
                f"{row.manifest['bytes']:,}",
                f"{np.mean(row.predicted == labels):.1%}",
                f"{np.mean(row.predicted == full.predicted):.1%}",
                f"{row.export_seconds:.2f}",
                f"{row.infer_seconds * 1_000:.2f}",
            )
            for row in rows
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
