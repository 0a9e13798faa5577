"""A hub with an admin key that tests know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.service.hub.fleet.simulated import ADMIN_KEY, Admin
from tests.service.hub.live_hub import LiveHub, live_hub

PATIENCE_SECONDS = 20.0


@contextmanager
def fleet_hub(folder: Path, **options: Any) -> Iterator[tuple[LiveHub, Admin]]:
    """A running hub and its administrator."""
    with live_hub(folder, admin_key=ADMIN_KEY, **options) as toy:
        yield toy, Admin(toy.client)


def eventually(check: Callable[[], Any], what: str) -> Any:
    """What a check gives once it gives something; the hub acts on its own in between."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := check()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)
    return found
