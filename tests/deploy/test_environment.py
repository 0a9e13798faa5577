"""Every setting that the files for containers, clusters and systemd name is one that the programs read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from service.cli import app
from service.ground.settings import ApiSettings

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    "Dockerfile",
    "docker-compose.yml",
    "docker-compose.gpu.yml",
    "deploy/kubernetes/hub.yaml",
    "deploy/kubernetes/edge.yaml",
    "deploy/kubernetes/kserve.yaml",
    "deploy/systemd/inn-edge.service",
    "deploy/systemd/edge.env.example",
]
SETTING = re.compile(r"(?<![A-Z_${])INN_[A-Z_]+\b")
"""A variable that a program gets; `${INN_…}` is one that compose itself takes from whoever calls it."""

COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)


def known() -> set[str]:
    """The variables of the hub's settings and of all options of `inn edge` and `inn fleet`."""
    found = {f"INN_{name.upper()}" for name in ApiSettings.model_fields}
    commands = [get_command(app)]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        for parameter in command.params:
            names = getattr(parameter, "envvar", None) or ()
            found |= {names} if isinstance(names, str) else set(names)
            if "auto_envvar_prefix" in command.context_settings:
                found.add(f"{command.context_settings['auto_envvar_prefix']}_{parameter.name.upper()}")
    return found


@pytest.mark.parametrize("file", FILES)
def test_settings_are_known(file: str) -> None:
    text = COMMENT.sub("", (ROOT / file).read_text(encoding="utf-8"))
    named = set(SETTING.findall(text))
    assert named <= known(), f"{file} names settings that nothing reads"


@pytest.mark.parametrize(
    "file", ["docker-compose.yml", "deploy/kubernetes/edge.yaml", "deploy/systemd/edge.env.example"]
)
def test_nodes_are_told_all_they_must_know(file: str) -> None:
    text = COMMENT.sub("", (ROOT / file).read_text(encoding="utf-8"))
    assert {"INN_EDGE_HUB", "INN_EDGE_NODE", "INN_EDGE_MODEL", "INN_EDGE_PARAMS"} <= set(SETTING.findall(text))
