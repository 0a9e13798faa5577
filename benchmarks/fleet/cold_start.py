"""Cold start of an edge node: from the start of the process to the first answer from its disk, with the hub gone."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.serving.process_usage import usage_of

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "models" / "demo" / "fashion_images.npz"
NODE = "cold"
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class ColdNode:
    """How a node is started.

    Attributes:
        model, params: what it serves.
        folder: its store.
        log: where its log goes.
    """

    model: str
    params: int
    folder: Path
    log: IO[bytes]


def prepare(node: ColdNode, hub: str, token: str, *, keep: Callable[[], int]) -> None:
    """Enroll a node and let it commit to its network, so that it can do without the hub; then stop it.

    Args:
        node: the node.
        hub, token: where, and what lets it in.
        keep: asks the hub for the same size without a trial, and returns the generation.
    """
    with _running(node, hub, token=token) as (_, address):
        _wait(address, "active", 1)  # what it declared at its start
        _wait(address, "committed", keep())


def cold_starts(node: ColdNode, hub: str, *, runs: int, idle_seconds: float) -> dict[str, Any]:
    """Start the node of `prepare` again and again, at the address of a hub that is gone.

    Args:
        node: the node.
        hub: the address.
        runs: how often.
        idle_seconds: after which its memory counts as that of an idle node.

    Returns:
        Medians: `seconds` to the first answer, `processor_seconds` until then, `idle_bytes` resident; and `runs` with
        the seconds of each.
    """
    with np.load(IMAGES) as data:
        image = data["images"][:1, None].astype(np.float32) / 255.0
    body = json.dumps({"inputs": {"image": image.round(4).tolist()}}).encode()
    seconds, processor, idle = [], [], []
    for _ in range(runs):
        began = time.perf_counter()
        with _running(node, hub) as (process_id, address):
            _infer(address, body)
            seconds.append(time.perf_counter() - began)
            processor.append(usage_of(process_id).processor_seconds)
            time.sleep(idle_seconds)
            idle.append(usage_of(process_id).resident_bytes)
    return {
        "runs": seconds,
        "seconds": statistics.median(seconds),
        "processor_seconds": statistics.median(processor),
        "idle_bytes": statistics.median(idle),
    }


@contextmanager
def _running(node: ColdNode, hub: str, *, token: str | None = None) -> Iterator[tuple[int, str]]:
    """A node in a process of its own; gives process id and address once it answers."""
    command = [sys.executable, "-m", "service.cli", "edge", "--hub", hub, "--node", NODE, "--model", node.model]
    command += ["--params", str(node.params), "--quality", "instant", "--store", str(node.folder), "--port", "0"]
    command += [] if token is None else ["--token", token]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=node.log, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().decode().strip()
            if not address:
                raise SystemExit(f"error: the node ended with exit code {process.wait()}")
            yield process.pid, address
        finally:
            process.terminate()


def _infer(address: str, body: bytes) -> None:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE_SECONDS)
    connection.request("POST", "/infer", body=body, headers={"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != http.client.OK:
        raise SystemExit(f"error: the node answered {answer.status}: {content.decode(errors='replace')[:500]}")


def _wait(address: str, state: str, generation: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with urllib.request.urlopen(f"{address}/status", timeout=PATIENCE_SECONDS) as answer:
            shown = json.load(answer)
        if (shown["state"], shown["observed_generation"]) == (state, generation):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"error: the node did not become {state}; it shows {json.dumps(shown)[:500]}")
        time.sleep(0.05)
