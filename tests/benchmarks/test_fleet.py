"""The benchmark of the fleet runs against a hub and nodes, and its figures hang together."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fleet import __main__ as fleet
from benchmarks.fleet import report as fleet_report
from benchmarks.fleet.download import download_costs
from benchmarks.serving.light_client import LightClient, Traffic
from benchmarks.serving.process_usage import child_with, usage_of
from tests.service.hub.live_hub import live_hub

N_NODES = 5


def check_changes(found: dict[str, Any]) -> None:
    """What holds of the changes whatever the machine does."""
    for name, size in zip(("first", "told", "fetched"), found["sizes"], strict=True):
        change = found[name]
        assert change["builds"] == 0
        assert 0 < change["heard"]["first"] <= change["heard"]["median"] <= change["heard"]["last"]
        assert change["heard"]["last"] < change["committed"]["last"] <= change["done"]
        assert change["artifact_bytes"] == (0 if name == "told" else N_NODES * size["bytes"])
        assert change["received_bytes"] > change["artifact_bytes"]
        assert change["requests"] >= 3 * N_NODES  # a question and two reports each
        assert change["resident_peak"] >= change["resident_before"] > 0
    assert found["idle"]["requests"] == 0  # they wait


@pytest.mark.slow
def test_changes_of_a_small_fleet_are_measured(tmp_path: Path) -> None:
    with live_hub(tmp_path, admin_key=fleet.ADMIN_KEY) as hub:
        run = fleet.measure(hub.url, os.getpid(), n_nodes=N_NODES, idle_seconds=0.2, settle_seconds=0.1, model="toy")
        found = asyncio.run(run)
        size = found["sizes"][-1]
        costs = download_costs(
            hub.url, os.getpid(), digest=size["digest"], size_bytes=size["bytes"], folder=tmp_path, clients=2, rounds=1
        )
    check_changes(found)
    assert len({size["digest"] for size in found["sizes"]}) == 3
    assert set(costs["processor_seconds_per_gb"]) == {"hub", "bare", "sendfile"}
    assert (tmp_path / "artifact").stat().st_size == size["bytes"]


@pytest.mark.slow
def test_a_small_fleet_is_measured_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "fleet.md"
    options = ["--nodes", str(N_NODES), "--idle-seconds", "0.5", "--rounds", "1", "--cold-starts", "1"]
    assert fleet.main([*options, "--settle-seconds", "0.1", "--output", str(output)]) == 0
    found = json.loads(output.with_suffix(".json").read_text())
    check_changes(found)
    assert set(found["downloads"]["processor_seconds_per_gb"]) == {"hub", "bare", "sendfile"}
    cold = found["cold_start"]
    assert cold["processor_seconds"] > 0
    assert len(cold["runs"]) == 1
    text = output.read_text()
    assert f"all {N_NODES} nodes" in text
    assert f"= {fleet_report.LARGE * found['sizes'][-1]['bytes'] / 1e9:,.0f} GB" in text
    assert text.strip() in capsys.readouterr().out


def test_costs_of_waiting_are_those_beyond_a_hub_without_nodes() -> None:
    found = {
        "nodes": 10,
        "alone": {"seconds": 30.0, "processor_seconds": 0.1, "resident_bytes": 1_000_000},
        "idle": {"seconds": 60.0, "processor_seconds": 0.6, "requests": 40},
        "waiting_bytes": 1_500_000,
    }
    assert fleet_report.per_request_seconds(found) == pytest.approx((0.6 - 0.2) / 40)
    assert fleet_report.per_connection_bytes(found) == 50_000


def test_the_usage_of_a_child_is_what_the_kernel_counts() -> None:
    spin = """import sys, time
block = bytearray(b"x") * 30_000_000
while time.process_time() < 0.3: pass
print(flush=True)
sys.stdin.read()"""
    with subprocess.Popen(
        [sys.executable, "-c", spin, "a-mark-of-this-test"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        found = usage_of(child_with("a-mark-of-this-test"))
        child.stdin.close()
        child.wait()
    assert 0.25 <= found.processor_seconds < 1.0
    assert 30_000_000 < found.resident_bytes <= found.peak_bytes
    with pytest.raises(LookupError, match="a-mark-of-this-test"):
        child_with("a-mark-of-this-test")


def test_sendfile_sends_the_file_again_and_again(tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    (tmp_path / "file").write_bytes(content)
    command = [sys.executable, "-m", "benchmarks.serving.sendfile_server", str(tmp_path / "file")]

    async def fetch(address: str) -> tuple[list[bytes], Traffic]:
        traffic, got = Traffic(), []
        async with LightClient(address, traffic) as client:
            for _ in range(2):
                blocks: list[bytes] = []
                (await client.send("GET", "/", take=blocks.append)).json(200)
                got.append(b"".join(blocks))
        return got, traffic

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        got, traffic = asyncio.run(fetch(server.stdout.readline().strip()))
        server.terminate()
    assert got == [content, content]
    assert traffic.requests == 2
    assert 2 * len(content) < traffic.received_bytes < 2 * len(content) + 500
