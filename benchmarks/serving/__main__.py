"""What the hub adds to a request: `python -m benchmarks.serving` prints a table and writes docs/results/serving.md.

Three figures, each beside the limit it is measured against, in one run on one machine:

- a cached `POST /export` against a bare ASGI app on the same server that reads and sends as many bytes,
- `POST /infer` of one image against the same bare app plus a raw ONNX Runtime session on the same artifact,
- 64 identical concurrent `POST /export` of a size that nobody has asked for: how many builds they make.

Rounds of each are interleaved, so that a busy moment of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from scripts.hub_process import running_hub
from service.terminal import note, print_table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "serving.md"
CHECKPOINT = ROOT / "models" / "checkpoints" / "fashion_resnet.inn"
IMAGES = ROOT / "models" / "demo" / "fashion_images.npz"
MODEL = "fashion_resnet"

WARM_UP = 50
ROUNDS = 10
REQUESTS_PER_ROUND = 50
CLIENTS = 64
JSON = {"Content-Type": "application/json"}


class Connection:
    """One kept-alive connection; the standard library's client costs less than the servers it measures."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)

    def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower-case names) and body of one POST."""
        self._http.request("POST", path, body=body, headers=JSON | (headers or {}))
        answer = self._http.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of one GET."""
        self._http.request("GET", path)
        answer = self._http.getresponse()
        return answer.status, answer.read()


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description="Latency of the hub beside named limits.")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="checkpoint to serve")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown file to write")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="inn-bench-") as folder, (Path(folder) / "hub.log").open("wb") as log:
        note("starting a hub and a bare server")
        with (
            running_hub(
                Path(folder) / "store", imports=[options.checkpoint], environment={"INN_WAIT_SECONDS": "600"}, log=log
            ) as hub,
            bare_server() as bare,
        ):
            figures = measure(Connection(hub), Connection(bare), hub, Path(folder))
    rows = table(figures)
    print_table(("what", "hub", "limit", "ratio"), rows)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(markdown(rows), encoding="utf-8")
    note(f"wrote {options.output}")


def measure(hub: Connection, bare: Connection, address: str, folder: Path) -> dict[str, float]:
    """Every figure, seconds (medians) or counts."""
    full = json.loads(_checked(*hub.get(f"/models/{MODEL}")))["feasible"]["max"]
    export_body = json.dumps({"model": MODEL, "target_params": full // 2}).encode()
    with np.load(IMAGES) as data:
        image = data["images"][:1, None].astype(np.float32) / 255.0
    infer_body = json.dumps(
        {"model": MODEL, "target_params": full // 2, "inputs": {"image": image.round(4).tolist()}}
    ).encode()
    note("building the half size")
    status, _, answer = hub.post("/export", export_body)
    manifest = json.loads(_checked(status, answer))
    export_size = len(_checked(*hub.post("/export", export_body)[::2]))
    infer_size = len(_checked(*hub.post("/infer", infer_body)[::2]))
    artifact = folder / "half.onnx"
    artifact.write_bytes(_checked(*hub.get(f"/artifacts/{manifest['digest']}")))
    note("timing requests")
    medians = interleaved(
        {
            "export": lambda: hub.post("/export", export_body),
            "export_limit": lambda: bare.post(f"/?{export_size}", export_body),
            "infer": lambda: hub.post("/infer", infer_body),
            "infer_limit": lambda: bare.post(f"/?{infer_size}", infer_body),
            "session": raw_session(artifact, image),
        }
    )
    note(f"{CLIENTS} identical concurrent exports")
    return medians | count_builds(address, full // 3)


def interleaved(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each call, over rounds in which each has its turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            for _ in range(REQUESTS_PER_ROUND):
                began = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def count_builds(address: str, target: int) -> dict[str, float]:
    """Send one export of a size that nobody has asked for from many clients at once; builds are counted by the hub."""
    body = json.dumps({"model": MODEL, "target_params": target}).encode()
    connections = [Connection(address) for _ in range(CLIENTS)]
    before = builds_done(connections[0])
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as threads:
        answers = list(threads.map(lambda one: one.post("/export", body), connections))
    seconds = time.perf_counter() - began
    digests = {json.loads(_checked(status, answer))["digest"] for status, _, answer in answers}
    if len(digests) != 1:
        raise SystemExit(f"error: identical exports gave {len(digests)} artifacts")
    return {"builds": builds_done(connections[0]) - before, "concurrent": seconds}


def builds_done(connection: Connection) -> float:
    """How many builds the hub has finished, from its metrics."""
    text = _checked(*connection.get("/metrics")).decode()
    found = re.search(r'^inn_exports_total\{result="done"\} (\S+)$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("error: the hub has no metric inn_exports_total")
    return float(found.group(1))


def raw_session(artifact: Path, image: np.ndarray[Any, np.dtype[np.float32]]) -> Callable[[], Any]:
    """One inference in an ONNX Runtime session of the artifact, with the hub's default options."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(artifact), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": image})


@contextmanager
def bare_server() -> Iterator[str]:
    """The bare server in a process of its own; gives its address."""
    command = [sys.executable, "-m", "benchmarks.serving.bare_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().decode().strip()
        finally:
            process.terminate()


def table(figures: dict[str, float]) -> list[tuple[str, str, str, str]]:
    """Rows: what was measured, the hub's figure, its limit, their ratio."""
    infer_limit = figures["infer_limit"] + figures["session"]
    return [
        (
            "cached export, p50 ms, against a bare ASGI app",
            f"{figures['export'] * 1e3:.2f}",
            f"{figures['export_limit'] * 1e3:.2f}",
            f"{figures['export'] / figures['export_limit']:.1f}",
        ),
        (
            "infer of one image, p50 ms, against a bare ASGI app and a raw session",
            f"{figures['infer'] * 1e3:.2f}",
            f"{infer_limit * 1e3:.2f}",
            f"{figures['infer'] / infer_limit:.1f}",
        ),
        (
            f"builds made by {CLIENTS} identical concurrent exports (all answered in {figures['concurrent']:.1f} s)",
            f"{figures['builds']:.0f}",
            "1",
            f"{figures['builds']:.1f}",
        ),
    ]


def markdown(rows: list[tuple[str, str, str, str]]) -> str:
    """The table as a Markdown page."""
    lines = [
        "# Serving",
        "",
        "Written by `python -m benchmarks.serving`: hub and limit in one run, rounds interleaved, one client.",
        "",
        "| what | hub | limit | ratio |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _checked(status: int, body: bytes) -> bytes:
    if status != http.client.OK:
        raise SystemExit(f"error: the hub answered {status}: {body.decode(errors='replace')[:500]}")
    return body


if __name__ == "__main__":
    main()
