"""Mishaps of a fleet, over HTTP: a node loses what it had committed, and so has the hub."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.service.hub.fleet.simulated import PARAMS_EACH, enrolled
from tests.service.hub.fleet_hub import eventually, fleet_hub
from tests.service.hub.live_hub import LiveHub
from tests.service.hub.test_fleet import timing


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


@pytest.mark.parametrize("unit", ["latency_ms", "memory_bytes"])
def test_sizes_to_measure_that_the_hub_has_lost_are_made_again(tmp_path: Path, unit: str) -> None:
    """The sizes of the ladder, and after that one in the quality that is wanted."""
    with fleet_hub(tmp_path) as (toy, admin):
        node = enrolled(toy.client, "probing")
        limit = 2.0 if unit == "latency_ms" else 400_000
        admin.call("PUT", "/fleet/nodes/probing/desired", {"model": "toy", "budget": {"unit": unit, "value": limit}})
        for _ in range(2):
            told = node.desired(wait=20)
            assert told is not None
            ladder = told["probe"]["signed"]["ladder"]
            for rung in ladder:
                eventually(lambda rung=rung: _removed(toy, rung["digest"]), "an idle session")
            assert node.desired(after=told["generation"] - 1) is not None
            for rung in ladder:
                url = f"/artifacts/{rung['digest']}"
                eventually(lambda url=url: toy.client.head(url).status_code == 200, "the artifact")
            node.known = told["generation"]
            node.report("idle", timings=[timing(rung["digest"], rung["macs"]) for rung in ladder])


def test_a_probe_of_a_model_that_is_gone_is_told_all_the_same(tmp_path: Path) -> None:
    with fleet_hub(tmp_path) as (toy, admin):
        node = enrolled(toy.client, "probing")
        budget = {"unit": "latency_ms", "value": 2.0}
        admin.call("PUT", "/fleet/nodes/probing/desired", {"model": "toy", "budget": budget})
        told = node.desired(wait=20)
        assert toy.client.delete("/models/toy").status_code == 204
        assert told is not None
        assert node.desired(after=0) == told


def test_a_node_that_knows_what_nobody_told_it_is_told_what_it_should_know(tmp_path: Path) -> None:
    with fleet_hub(tmp_path) as (toy, admin):
        node = enrolled(toy.client, "confused")
        admin.set("confused", 43 * PARAMS_EACH)
        node.follow()
        assert node.desired() is None
        told = node.desired(after=2**53 - 1)
        assert told is not None
        assert told["generation"] == node.known


def test_a_node_whose_time_is_ahead_is_told_what_it_can_believe(tmp_path: Path) -> None:
    with fleet_hub(tmp_path) as (toy, admin):
        node = enrolled(toy.client, "ahead")
        admin.set("ahead", 43 * PARAMS_EACH)
        first = node.follow()["release"]["signed"]
        ahead = first["expires"] + 1000
        node.report("failed", trusted={"time": ahead, "version": node.known})
        told = node.desired(after=0)
        assert told is not None
        again = told["release"]["signed"]
        assert again["version"] == first["version"]
        assert again["expires"] > ahead + (first["expires"] - first["issued"]) // 2
        node.report("failed", trusted={"time": 2**53 - 1, "version": node.known})
        told = node.desired(after=0)
        assert told is not None
        # What a node says does not lead to a document that outlives the keyring for long: its key may be stolen.
        life = first["expires"] - first["issued"]
        keyring = toy.client.get("/fleet/keyring").json()["signed"]
        assert told["release"]["signed"]["expires"] == keyring["expires"] + life
        assert node.desired(after=0) == told  # and it is not signed anew each time


def _removed(toy: LiveHub, digest: str) -> bool:
    """Removes an artifact as an eviction does; its session must have been closed before."""
    loop = toy.hub.builders_started.get_loop()
    asyncio.run_coroutine_threadsafe(toy.hub.sessions.evict_idle(), loop).result(20)
    return toy.hub.store.remove(digest)
