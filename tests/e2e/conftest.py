"""Fixtures of the tests with real containers; without an engine they end the run and say why."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.engine import EDGE_IMAGE, HUB_IMAGE, Compose, build, engine_obstacle

UP_SECONDS = 900.0
FINDINGS = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def findings(request: pytest.FixtureRequest) -> list[str]:
    """Lines that the report at the end shows: sizes and times that were measured."""
    return request.config.stash.setdefault(FINDINGS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was measured."""
    for line in config.stash.get(FINDINGS, []):
        terminalreporter.write_line(f"measured: {line}")


@pytest.fixture(scope="session")
def engine() -> None:
    """A container engine and compose, or the end of the run with the reason."""
    obstacle = engine_obstacle()
    if obstacle is not None:
        pytest.exit(obstacle, returncode=2)


@pytest.fixture(scope="session")
def images(engine: None, findings: list[str]) -> dict[str, str]:
    """Both images, built from this tree; the engine's cache makes a second build quick.

    With INN_E2E_BUILD=0 in the environment, images of these names are taken as they are: an earlier step built them.
    """
    if os.environ.get("INN_E2E_BUILD") == "0":
        findings.append("images were not built by this run (INN_E2E_BUILD=0)")
        return {"edge": EDGE_IMAGE, "hub": HUB_IMAGE}
    for target, tag in (("edge", EDGE_IMAGE), ("hub", HUB_IMAGE)):
        findings.append(f"image {target} built in {build(target, tag):.0f} s (less where layers were cached)")
    return {"edge": EDGE_IMAGE, "hub": HUB_IMAGE}


@pytest.fixture(scope="session")
def fleet(images: dict[str, str]) -> Iterator[Compose]:
    """The services of docker-compose.yml, up; all of it, volumes too, is removed at the end."""
    compose = Compose("inn-e2e")
    compose("down", "--volumes", "--remove-orphans")
    try:
        compose("up", "--detach", "--no-build", timeout=UP_SECONDS)
        yield compose
    except AssertionError:
        print(compose.logs())
        raise
    finally:
        compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
