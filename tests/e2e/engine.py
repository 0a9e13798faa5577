"""The container engine as the tests use it: build images, run compose as a project of its own, look inside."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
BASE_IMAGE = "python:3.11-slim-bookworm"
HUB_IMAGE = "inn-hub:e2e"
EDGE_IMAGE = "inn-edge:e2e"
NODES = {"edge-small": 60_000, "edge-medium": 170_000, "edge-large": 350_000}
"""The nodes of docker-compose.yml and their budgets in parameters."""

QUALITY = os.environ.get("INN_E2E_QUALITY", "instant")
"""Milliseconds a size instead of seconds; what is tested here is how sizes travel, not how good they are."""

BUILD_SECONDS = 3600.0
COMMAND_SECONDS = 600.0


def run(*command: str, environment: Mapping[str, str] | None = None, timeout: float = COMMAND_SECONDS) -> str:
    """Run a command of the engine and return its standard output.

    Raises:
        AssertionError: it failed; the message has all that it wrote.
    """
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def engine_obstacle() -> str | None:
    """Why no containers can be run here, in a sentence for people, or None."""
    where = os.environ.get("DOCKER_HOST", "the default socket (DOCKER_HOST is not set)")
    if shutil.which("docker") is None:
        return "there is no command `docker` on PATH; the tests marked e2e need a container engine"
    try:
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no container engine answers at {where}: `docker version` took more than 30 s"
    if done.returncode != 0:
        return f"no container engine answers at {where}: {done.stderr.strip()}; start one, or point DOCKER_HOST to one"
    if compose_command() is None:
        return "neither `docker-compose` nor `docker compose` works here; the tests marked e2e need one of them"
    return None


def compose_command() -> list[str] | None:
    """`docker-compose` or `docker compose`, whichever there is; COMPOSE in the environment chooses."""
    asked = os.environ.get("COMPOSE")
    candidates = [asked.split()] if asked else [["docker-compose"], ["docker", "compose"]]
    for candidate in candidates:
        if shutil.which(candidate[0]) is None:
            continue
        if subprocess.run([*candidate, "version"], capture_output=True, timeout=60, check=False).returncode == 0:
            return candidate
    return None


def build(target: str, tag: str) -> float:
    """Build one image of the Dockerfile; returns how many seconds it took."""
    start = time.monotonic()
    run("docker", "build", "--network", "host", "--target", target, "--tag", tag, ".", timeout=BUILD_SECONDS)
    return time.monotonic() - start


def inspect_image(image: str) -> dict[str, Any]:
    """What the engine knows of an image."""
    (found,) = json.loads(run("docker", "image", "inspect", image))
    assert isinstance(found, dict)
    return found


def in_image(image: str, *command: str) -> str:
    """Run a command in a fresh container of an image, as its user, without a network and without its entry point."""
    return run(
        "docker", "run", "--rm", "--network", "none", "--read-only", "--entrypoint", command[0], image, *command[1:]
    )


def free_port() -> int:
    """A TCP port of the loopback address that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(look: Callable[[], T | None], *, seconds: float, what: str, pause: float = 0.2) -> T:
    """What `look` gives as soon as it gives something; asks again while it gives None.

    Raises:
        AssertionError: it gave nothing for `seconds`.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found is not None:
            return found
        time.sleep(pause)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@dataclass(frozen=True)
class Compose:
    """One compose project on ports of its own, so that it runs beside others.

    Attributes:
        project: its name.
        ports: of the hub (`hub`) and the nodes on the loopback address.
    """

    project: str
    ports: Mapping[str, int] = field(default_factory=lambda: {name: free_port() for name in ("hub", *NODES)})

    @property
    def command(self) -> list[str]:
        """Starts compose for this project."""
        command = compose_command()
        assert command is not None
        return [*command, "--project-name", self.project]

    @property
    def environment(self) -> dict[str, str]:
        """What docker-compose.yml takes from the environment."""
        return {
            "INN_HUB_IMAGE": HUB_IMAGE,
            "INN_EDGE_IMAGE": EDGE_IMAGE,
            "INN_HUB_PORT": str(self.ports["hub"]),
            "INN_SMALL_PORT": str(self.ports["edge-small"]),
            "INN_MEDIUM_PORT": str(self.ports["edge-medium"]),
            "INN_LARGE_PORT": str(self.ports["edge-large"]),
            "INN_EDGE_QUALITY": QUALITY,
        }

    def __call__(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> str:
        """Run compose with these arguments."""
        return run(*self.command, *arguments, environment=self.environment, timeout=timeout)

    def url(self, service: str) -> str:
        """The base URL of a service, as seen from this machine."""
        return f"http://127.0.0.1:{self.ports[service]}"

    def container(self, service: str) -> str:
        """The id of the container of a service, running or not."""
        label = f"label=com.docker.compose.service={service}"
        project = f"label=com.docker.compose.project={self.project}"
        (found,) = run("docker", "ps", "--all", "--quiet", "--filter", label, "--filter", project).split()
        return found

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of the container of a service."""
        (found,) = json.loads(run("docker", "inspect", self.container(service)))
        assert isinstance(found, dict)
        return found

    def hub_command(self, *arguments: str) -> str:
        """Run `inn` in the container of the hub, where the admin key is."""
        return self("exec", "-T", "hub", "inn", *arguments)

    def logs(self, services: Sequence[str] = ()) -> str:
        """The last lines that the services wrote."""
        return self("logs", "--no-color", "--tail", "60", *services)
