"""Mishaps of a fleet, over HTTP: a node loses what it had committed, and so has the hub."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.service.api.fleet_hub import eventually, fleet_hub
from tests.service.api.live_hub import LiveHub
from tests.service.fleet.simulated import PARAMS_EACH, enrolled


def test_an_artifact_that_node_and_hub_have_lost_is_made_again(tmp_path: Path) -> None:
    with fleet_hub(tmp_path) as (toy, admin):
        node = enrolled(toy.client, "damaged")
        admin.set("damaged", 43 * PARAMS_EACH)
        digest = node.follow()["desired"]["digest"]
        eventually(lambda: admin.node("damaged")["state"] == "committed", "a commitment")
        eventually(lambda: _removed(toy, digest), "an idle session")
        # A node that starts again with what it has asks, too: nothing needs to be made for it.
        assert node.desired(after=0) is not None
        assert toy.client.head(f"/artifacts/{digest}").status_code == 404
        node.report("failed", active=None)
        assert node.desired(after=0) is not None
        eventually(lambda: toy.client.head(f"/artifacts/{digest}").status_code == 200, "the artifact")


def _removed(toy: LiveHub, digest: str) -> bool:
    """Removes an artifact as an eviction does; its session must have been closed before."""
    loop = toy.hub.builders_started.get_loop()
    asyncio.run_coroutine_threadsafe(toy.hub.sessions.evict_idle(), loop).result(20)
    return toy.hub.store.remove(digest)
