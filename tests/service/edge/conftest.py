"""A hub that tests steer, and small networks by size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.edge.fake_hub import FakeHub, fake_hub
from tests.service.edge.networks import linear_network


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A running hub."""
    with fake_hub() as running:
        yield running


@pytest.fixture(scope="session")
def small() -> bytes:
    """A network."""
    return linear_network(seed=1)


@pytest.fixture(scope="session")
def large() -> bytes:
    """Another network that takes the same inputs."""
    return linear_network(seed=2, hidden=4096)
