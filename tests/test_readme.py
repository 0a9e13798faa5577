"""README.md as a new user reads it: its blocks run one by one against a hub, its table of settings is up to date."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.hub_process import running_hub
from scripts.settings_table import with_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"
BLOCKS = re.findall(r"<!-- (tested(?:: [a-z]+)?) -->\n```bash\n(.*?)```", README, re.DOTALL)


def test_the_table_of_settings_is_the_current_one() -> None:
    assert with_table(README) == README, "write it anew: make settings-table"


def test_every_block_that_is_not_tested_only_starts_something() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    tested = {text for _, text in BLOCKS}
    for block in set(blocks) - tested:
        assert set(re.findall(r"\bmake (\w+)", block)) <= {"demo", "serve"}
        assert "curl" not in block
        assert "inn " not in block


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the hub."""
    return tmp_path_factory.mktemp("hub") / "store"


@pytest.fixture(scope="module")
def desk(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone after `make serve`: models, store, and the commands of this environment."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "models").symlink_to(ROOT / "models")
    (folder / "store").symlink_to(store)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    return folder


@pytest.fixture(scope="module")
def hub(store: Path) -> Iterator[str]:
    # Builds take seconds; on a machine busy with other tests they must not turn into jobs.
    environment = {"INN_WAIT_SECONDS": "600"}
    with (
        store.with_name("hub.log").open("wb") as log,
        running_hub(store, environment=environment, log=log) as address,
    ):
        yield address


def test_blocks_run_one_by_one(hub: str, desk: Path) -> None:
    """One test, since a block may use what an earlier one wrote; a failure names the block."""
    blocks = [(mark, block) for mark, block in BLOCKS if mark in ("tested", "tested: problem")]
    assert len(blocks) >= 12
    for mark, block in blocks:
        # The commands of the README, except that curl fails when the hub answers with an error.
        prelude = "" if mark.endswith("problem") else 'curl() { command curl --fail-with-body "$@"; }\n'
        check_output(mark, block, run_block(prelude + block.replace(ADDRESS, hub), desk))


@pytest.mark.slow
def test_blocks_about_a_fleet_without_containers_run_one_by_one(hub: str, desk: Path) -> None:
    """Three nodes as in the README; each switch is under watch for half a minute. Those in containers: tests/e2e."""
    blocks = [block for mark, block in BLOCKS if mark == "tested: fleet"]
    start, see, change, back, stop = (
        block.replace(ADDRESS, hub).replace("8101", "0").replace("8102", "0").replace("8103", "0") for block in blocks
    )
    environment = {"INN_HUB": hub}
    run_block(start, desk, environment)
    try:
        eventually_all_joined(desk, environment)
        listed = run_block(see, desk, environment)
        assert all(re.search(rf"\b{node}\b.*\bcommitted\b", listed) for node in ("small", "medium", "large")), listed
        before = params_of("medium", desk, environment)
        assert 140_000 < before <= 170_000
        run_block(change, desk, environment)
        assert 80_000 < params_of("medium", desk, environment) <= 100_000
        run_block(back, desk, environment)
        assert params_of("medium", desk, environment) == before
    finally:
        run_block(stop, desk, environment)


def run_block(block: str, desk: Path, environment: dict[str, str] | None = None) -> str:
    """Run a block in bash; returns its standard output. Fails with all it wrote when its exit code is not 0."""
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{block}"],
        cwd=desk,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def eventually_all_joined(desk: Path, environment: dict[str, str]) -> None:
    """Wait until the hub knows three nodes."""
    end = time.monotonic() + 120
    while len(json.loads(run_block(".venv/bin/inn fleet list --json", desk, environment))["nodes"]) < 3:
        assert time.monotonic() < end, "the nodes do not join: " + run_block("tail -n 20 *.log", desk)
        time.sleep(1)


def params_of(node: str, desk: Path, environment: dict[str, str]) -> int:
    """How many parameters a node says that it serves."""
    shown = json.loads(run_block(f".venv/bin/inn fleet show {node}", desk, environment))
    return int(shown["reported"]["active"]["params"])


def check_output(mark: str, block: str, output: str) -> None:
    """What the text around some blocks promises of their output."""
    if mark.endswith("problem"):
        problem = json.loads(output)
        assert problem["type"].endswith("budget-unreachable")
        assert 1 < problem["minimum"] < problem["maximum"]
        assert problem["unit"] == "params"
    elif "target_params\": 170000}'\n" in block and "DIGEST" not in block:
        assert json.loads(output)["params"] <= 170_000
    elif "If-None-Match" in block:
        lines = output.splitlines()
        assert lines[:2] == ["304", "206 100 bytes"]
        assert "is intact" in lines[2]
    elif "event-stream" in block:
        assert "event: done" in output
    elif block.rstrip().endswith("-d @request.json"):
        logits = json.loads(output)["outputs"]["logits"]
        assert [len(row) for row in logits] == [10, 10]
