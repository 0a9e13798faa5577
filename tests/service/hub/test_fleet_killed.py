"""A hub that is killed at any moment and started again: nothing that it has answered is lost."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.hub.fleet.simulated import PARAMS_EACH, Admin, Node, enrolled
from tests.service.hub.fleet_hub import eventually
from tests.service.hub.live_hub import write_checkpoint

ROOT = Path(__file__).parents[3]
KILLS = 3


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def hub(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A running hub, killed at the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.service.hub.hub_process", str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_answered_wishes_survive_and_generations_grow(tmp_path: Path, port: int) -> None:
    answered: list[tuple[int, int]] = []  # generation and units of every wish that the hub said yes to
    chance = random.Random(7)
    write_checkpoint(tmp_path)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0) as client:
        admin = Admin(client)
        node = Node(client, "a")
        for kill in range(KILLS):
            with hub(tmp_path, port) as process:
                if kill == 0:
                    assert node.enroll(admin.token()).status_code == 201
                else:
                    shown = admin.node("a")
                    assert shown["generation"] >= answered[-1][0]
                    known = [units for number, units in answered if number == shown["generation"]]
                    # a wish whose answer was lost may have been taken, none that was answered may be lost
                    assert known or shown["generation"] > answered[-1][0]
                timer = threading.Timer(chance.uniform(0.05, 0.5), process.kill)
                timer.start()
                with contextlib.suppress(httpx.TransportError):
                    while True:
                        units = chance.randint(1, 60)
                        answered.append((admin.set("a", units * PARAMS_EACH), units))
                timer.join()
            numbers = [number for number, _ in answered]
            assert numbers == sorted(set(numbers))
        with hub(tmp_path, port):
            generation = admin.set("a", 7 * PARAMS_EACH)
            assert generation > answered[-1][0]
            told = node.follow(wait=30)
            assert (told["generation"], told["desired"]["params"]) == (generation, 7 * PARAMS_EACH)


def outcomes(rollout: dict[str, Any], names: list[str]) -> list[str]:
    found = {node["node"]: node["outcome"] for node in rollout["nodes"]}
    return [found[name] for name in names]


def test_a_rollout_goes_on_after_the_hub_was_killed(tmp_path: Path, port: int) -> None:
    write_checkpoint(tmp_path)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0) as client:
        admin = Admin(client)
        with hub(tmp_path, port):
            nodes = {f"n{number}": enrolled(client, f"n{number}", group="x") for number in range(4)}
            body = {
                "selector": {"group": "x"},
                "model": "toy",
                "budget": {"unit": "params", "value": 9 * PARAMS_EACH},
                "canary_share": 0.5,
            }
            rollout = admin.call("POST", "/fleet/rollouts", body).json()
            first = [node["node"] for node in rollout["nodes"] if node["canary"]]
            nodes[first[0]].follow(wait=30)
        with hub(tmp_path, port):
            # the report outlived the hub; what follows from it for the rollout is the first step after the start
            eventually(
                lambda: outcomes(admin.rollout(rollout["id"]), first) == ["committed", "updating"],
                "the outcomes of the canaries",
            )
            assert admin.rollout(rollout["id"])["state"] == "canary"
            nodes[first[1]].follow(wait=30)
            for name, node in nodes.items():
                if name not in first:
                    node.follow(wait=30)
            eventually(lambda: admin.rollout(rollout["id"])["state"] == "done", "the end of the rollout")
