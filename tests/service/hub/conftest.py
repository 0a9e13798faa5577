"""One hub for all tests of this folder that do not need their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.hub.live_hub import LiveHub, live_hub


@pytest.fixture(scope="package")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveHub]:
    """A running hub with the model `toy`."""
    with live_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running
