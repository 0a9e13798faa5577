"""README.md as a new user reads it: its blocks run one by one against a hub, its table of settings is up to date."""

import json
import re
import subprocess
import sys
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
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone after `make`: the models, and the commands of this environment."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "models").symlink_to(ROOT / "models")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hub")
    # Builds take seconds; on a machine busy with other tests they must not turn into jobs.
    environment = {"INN_WAIT_SECONDS": "600"}
    with (
        (folder / "hub.log").open("wb") as log,
        running_hub(folder / "store", environment=environment, log=log) as address,
    ):
        yield address


def test_blocks_run_one_by_one(hub: str, desk: Path) -> None:
    """One test, since a block may use what an earlier one wrote; a failure names the block."""
    assert len(BLOCKS) >= 12
    for mark, block in BLOCKS:
        # The commands of the README, except that curl fails when the hub answers with an error.
        prelude = 'set -euo pipefail\ncurl() { command curl --fail-with-body "$@"; }\n'
        if mark.endswith("problem"):
            prelude = "set -euo pipefail\n"
        done = subprocess.run(
            ["bash", "-c", prelude + block.replace(ADDRESS, hub)],
            cwd=desk,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        check_output(mark, block, done.stdout)


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
