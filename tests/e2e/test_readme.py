"""The part of README.md about the fleet in containers, as a new user runs it: block by block, in its order."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.engine import NODES, ROOT, Compose, eventually
from tests.e2e.fleet import COMMIT_SECONDS, committed

pytestmark = pytest.mark.e2e

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- tested: containers -->\n```bash\n(.*?)```", README, re.DOTALL)
README_PORTS = {"hub": 8000, "edge-small": 8101, "edge-medium": 8102, "edge-large": 8103}


@pytest.fixture(scope="module")
def project(images: dict[str, str]) -> Iterator[Compose]:
    """A compose project that is not up yet; removed at the end."""
    compose = Compose("inn-readme")
    compose("down", "--volumes", "--remove-orphans")
    yield compose
    compose("down", "--volumes", "--remove-orphans", "--timeout", "5")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone after `make`."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("models", "docker-compose.yml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    return folder


def run_block(block: str, project: Compose, desk: Path) -> str:
    """Run a block: the commands of the README, but with this project's ports, and images that are built already."""
    prelude = f"""
        set -euo pipefail
        docker-compose() {{ command {shlex.join(project.command)} "$@"; }}
        curl() {{ command curl --fail-with-body "$@"; }}
        make() {{ [ "$*" = images ]; }}
    """
    for service, port in README_PORTS.items():
        block = block.replace(f"127.0.0.1:{port}", f"127.0.0.1:{project.ports[service]}")
    done = subprocess.run(
        ["bash", "-c", prelude + block],
        cwd=desk,
        env={**os.environ, **project.environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}\n{project.logs()}"
    return done.stdout


def settled(project: Compose) -> dict[str, Any]:
    """The sizes of all nodes once each has committed what the hub wants now."""

    def look() -> dict[str, Any] | None:
        try:
            httpx.get(f"{project.url('hub')}/readyz", timeout=5).raise_for_status()
        except httpx.HTTPError:
            return None
        listed = json.loads(project.hub_command("fleet", "list", "--json"))["nodes"]
        done = all(
            node["state"] == "committed"
            and not node["stale"]
            and node["reported"]["observed_generation"] == node["generation"]
            for node in listed
        )
        return {node["node"]: node["reported"]["active"]["params"] for node in listed} if done else None

    return eventually(look, seconds=COMMIT_SECONDS, what="all nodes have what the hub wants", pause=1.0)


def test_blocks_run_one_by_one(project: Compose, desk: Path) -> None:
    """One test, since each block builds on the one before."""
    up, ask, change, back, kill, rollout = BLOCKS
    run_block(up, project, desk)
    first = {node: committed(project, node)["active"]["params"] for node in NODES}
    assert settled(project) == first

    asked = run_block(ask, project, desk)
    assert all(node in asked for node in NODES)
    assert [len(row) for row in json.loads(asked[asked.rindex('{"model"') :])["outputs"]["logits"]] == [10, 10]

    run_block(change, project, desk)
    assert 80_000 < settled(project)["edge-medium"] <= 100_000
    run_block(back, project, desk)
    assert settled(project) == first

    assert '"outputs"' in run_block(kill, project, desk)
    assert settled(project) == first

    run_block(rollout, project, desk)
    eventually(
        lambda: True if set(settled(project).values()) != set(first.values()) else None,
        seconds=COMMIT_SECONDS,
        what="the rollout changes sizes",
    )
