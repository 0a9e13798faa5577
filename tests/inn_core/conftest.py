"""Fixtures for inn_core: hand-written networks, built once (they are never changed)."""

from __future__ import annotations

import pytest

from inn_core.checkpoint.checkpoint import Checkpoint
from tests.inn_core import networks

REAL = {
    "residual": networks.residual_network,
    "concat": networks.concat_network,
    "depthwise": networks.depthwise_network,
}
SHAPES = {"basic_resnet": networks.basic_resnet, "resnet50": networks.resnet50_shape}


@pytest.fixture(scope="session", params=sorted(REAL))
def real_network(request: pytest.FixtureRequest) -> Checkpoint:
    """Each of the small networks that run."""
    return REAL[request.param]()


@pytest.fixture(scope="session")
def residual() -> Checkpoint:
    """The small residual network."""
    return networks.residual_network()


@pytest.fixture(scope="session", params=sorted(SHAPES))
def wide_network(request: pytest.FixtureRequest) -> Checkpoint:
    """Each of the cost-only networks in the shape of a real one."""
    return SHAPES[request.param]()
