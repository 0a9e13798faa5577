"""`inn edge`: says where it listens, answers from its disk in little time, and stops when told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.signing.enrolment_tokens import EnrolmentToken
from tests.service.node.fake_hub import FakeHub, digest_of
from tests.service.node.nodes import FEATURES, live_node

COLD_START_CPU_SECONDS = 3.0
"""The goal is 3 s from the start to the first answer on a slow core of its own; here other processes share the cores,
so the time that the node itself used is what counts."""

BASE = ["--node", "n1", "--model", "toy"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "service.cli", "edge", *arguments]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("INN_")} | environment
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=variables, check=False, timeout=60)


def test_it_answers_from_its_disk_without_a_hub_and_stops_gracefully(
    hub: FakeHub, small: bytes, tmp_path: Path
) -> None:
    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path):
        hub.wait_state("committed", 1)
    options = ["--hub", "http://127.0.0.1:1", *BASE, "--params", "1000", "--store", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command(*options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        body = json.dumps({"inputs": {"x": [[0.0] * FEATURES]}}).encode()
        with urllib.request.urlopen(f"{address}/infer", data=body) as answer:
            assert json.load(answer)["digest"] == digest_of(small)
        times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        assert (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK") < COLD_START_CPU_SECONDS
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert out == ""
    assert err.endswith("stopped\n")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 1, "error[invalid-budget]: a node has one budget, none is given"),
        (["--params", "5", "--latency-ms", "2"], 1, "--params and --latency-ms are given"),
        (["--latency-ms", "nan"], 1, "error[invalid-budget]: --latency-ms is nan"),
        (["--params", "0"], 2, "--params"),
        (["--params", "5", "--hub", "ftp://hub"], 2, "is no address of a hub"),
        (["--params", "5", "--node", "../n"], 2, "is not allowed"),
        (["--params", "5", "--label", "novalue"], 2, "write KEY=VALUE"),
        (["--params", "5", "--quality", "best"], 2, "is not known"),
        (["--params", "5", "--token-file", "/nonexistent"], 1, "error[invalid-token]: the token file"),
        (["--params", "5", "--token-file", "/nonexistent", "--token", "x"], 1, "are both given"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, arguments: list[str], code: int, text: str) -> None:
    given = ["edge", "--hub", "http://127.0.0.1:1", *BASE, "--store", str(tmp_path), "--port", "0", *arguments]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == code, done.output
    assert text in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""


def test_without_a_hub_or_a_token_it_says_how_to_get_one(tmp_path: Path) -> None:
    done = run("--hub", "http://127.0.0.1:1", *BASE, "--params", "5", "--store", str(tmp_path), "--port", "0")
    assert done.returncode == 1, done.stderr
    assert "error[not-enrolled]: node 'n1' is not enrolled and has no token" in done.stderr
    assert done.stdout == ""


def test_a_hub_that_refuses_the_token_ends_a_node_that_has_nothing_to_serve(hub: FakeHub, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(EnrolmentToken.generate(hub.root.public).text + "\n")
    environment = {
        "INN_EDGE_HUB": hub.url,
        "INN_EDGE_NODE": "n1",
        "INN_EDGE_MODEL": "toy",
        "INN_EDGE_PARAMS": "1000",
        "INN_EDGE_STORE": str(tmp_path / "store"),
        "INN_EDGE_PORT": "0",
        "INN_EDGE_TOKEN_FILE": str(token),
    }
    done = run(**environment)
    assert done.returncode == 1
    assert "error[enrolment-refused]: the hub does not take node 'n1' in (invalid-token" in done.stderr
    assert token.read_text().split(".")[2] not in done.stderr + done.stdout
