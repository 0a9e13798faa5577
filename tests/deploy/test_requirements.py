"""What the images install is what pyproject.toml says, with extras that name extras."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "requirements.py"
PROJECT = {
    "name": "a-project",
    "dependencies": ["numpy>=1"],
    "optional-dependencies": {
        "one": ["first>=2"],
        "two": ["a-project[one]", "second; sys_platform == 'linux'"],
        "all": ["a-project[two, three]"],
        "three": ["third"],
    },
}


@pytest.fixture
def names() -> object:
    """The function of the script."""
    return runpy.run_path(str(SCRIPT))["requirements"]


@pytest.mark.parametrize(
    ("extras", "expected"),
    [
        ([], ["numpy>=1"]),
        (["one"], ["numpy>=1", "first>=2"]),
        (["two"], ["numpy>=1", "second; sys_platform == 'linux'", "first>=2"]),
        (["all"], ["numpy>=1", "second; sys_platform == 'linux'", "third", "first>=2"]),
        (["one", "three"], ["numpy>=1", "first>=2", "third"]),
    ],
)
def test_extras_are_resolved(names: object, extras: list[str], expected: list[str]) -> None:
    assert callable(names)
    assert list(names(PROJECT, extras)) == expected


def run(*extras: str) -> subprocess.CompletedProcess[str]:
    """Run the script in the project's folder."""
    return subprocess.run([sys.executable, str(SCRIPT), *extras], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_node_needs_no_torch_and_a_hub_image_no_cuda() -> None:
    edge, hub, gpu = (run(*extras).stdout.split("\n") for extras in (["edge"], ["build", "edge"], ["hub"]))
    names = [{line.split(">")[0].split(";")[0] for line in lines if line} for lines in (edge, hub, gpu)]
    assert "onnxruntime" in names[0]
    assert not names[0] & {"torch", "onnx", "onnxscript", "safetensors", "sqlalchemy", "alembic", "onnxruntime-gpu"}
    assert names[1] - names[0] == {"torch", "onnx", "onnxscript", "safetensors", "sqlalchemy", "alembic"}
    assert names[2] - names[1] == {"onnxruntime-gpu"}


def test_an_unknown_extra_is_named() -> None:
    done = run("edges")
    assert done.returncode == 1
    assert "there is no extra 'edges'; there are: edge, build, hub" in done.stderr
