"""A hub that tests steer, and small networks by size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.node.fake_hub import FakeHub, fake_hub
from tests.service.node.networks import linear_network
from tests.service.node.nodes import LiveNode, live_node


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


@pytest.fixture
def node(hub: FakeHub, small: bytes, tmp_path: Path) -> Iterator[LiveNode]:
    """A node that has committed `small` as version 1."""
    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path / "store") as live:
        hub.wait_state("committed", 1)
        yield live
