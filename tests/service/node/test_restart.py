"""A node that starts again: it serves from its disk, with or without its hub, and mends what is damaged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from service.node.errors import NodeMismatchError, NotEnrolledError
from service.node.node import open_node
from service.node.settings import EdgeSettings
from service.signing.errors import InvalidTokenError
from tests.service.node.fake_hub import QUICK, FakeHub, digest_of, fake_hub
from tests.service.node.nodes import live_node, settings_of

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def store(hub: FakeHub, small: bytes, large: bytes, tmp_path: Path) -> Path:
    """The folder of a node that has committed `small` as 1 and then `large` as 2."""
    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path):
        hub.wait_state("committed", 1)
        hub.tell(hub.release(large, 2))
        hub.wait_state("committed", 2)
    hub.reports.clear()
    return tmp_path


def artifact(store: Path, content: bytes) -> Path:
    return store / "artifacts" / f"{digest_of(content)[7:]}.onnx"


def test_without_its_hub_a_node_serves_what_it_had(hub: FakeHub, store: Path, large: bytes) -> None:
    with live_node(hub, store, hub=NOWHERE, token=None) as node:
        assert node.infer().json()["digest"] == digest_of(large)
        assert node.status()["state"] == "committed"
        assert node.status()["active"]["version"] == 2
        assert node.status()["previous"]["version"] == 1
    assert hub.reports == []


def test_a_damaged_artifact_is_fetched_again_while_the_last_good_size_serves(
    hub: FakeHub, store: Path, small: bytes, large: bytes
) -> None:
    path = artifact(store, large)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with live_node(hub, store, hub=NOWHERE) as node:
        assert node.infer().json()["digest"] == digest_of(small)
        assert node.status()["error"]["code"] == "artifact-damaged"
    with live_node(hub, store) as node:
        hub.wait_state("committed", 2)
        assert node.infer().json()["digest"] == digest_of(large)
    assert path.read_bytes() == large


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"{")])
def test_a_damaged_pointer_is_mended_by_the_hub(
    hub: FakeHub, store: Path, small: bytes, large: bytes, damage: Callable[[Path], object]
) -> None:
    damage(store / "active")
    with live_node(hub, store, hub=NOWHERE) as node:
        assert node.infer().json()["digest"] == digest_of(small)
    with live_node(hub, store) as node:
        hub.wait_report(lambda report: report["state"] == "committed" and report["active"]["version"] == 2)
        assert node.infer().json()["digest"] == digest_of(large)


def test_with_everything_damaged_it_says_so_and_starts_over(
    hub: FakeHub, store: Path, small: bytes, large: bytes
) -> None:
    for content in (small, large):
        artifact(store, content).write_bytes(b"damaged")
    with live_node(hub, store, hub=NOWHERE) as node:
        answer = node.infer()
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/not-ready")
        assert node.client.get("/readyz").status_code == 503
        assert node.client.get("/healthz").status_code == 200
    with live_node(hub, store) as node:
        hub.wait_state("committed", 2)
        assert node.infer().json()["digest"] == digest_of(large)


def test_a_staged_release_that_is_older_than_what_is_trusted_is_dropped(hub: FakeHub, store: Path) -> None:
    (store / "staged").write_bytes((store / "previous").read_bytes())
    with live_node(hub, store) as node:
        hub.wait_state("committed", 2)
        assert node.status()["active"]["version"] == 2
    assert not (store / "staged").exists()


def test_a_token_that_was_used_is_no_obstacle(hub: FakeHub, store: Path, large: bytes) -> None:
    enrolled = [path for _, path, _ in hub.asked].count("/fleet/enroll")
    with live_node(hub, store) as node:
        hub.wait_state("committed", 2)
        assert node.infer().json()["digest"] == digest_of(large)
    assert [path for _, path, _ in hub.asked].count("/fleet/enroll") == enrolled == 1


def test_a_hub_with_another_root_is_not_believed(hub: FakeHub, store: Path, small: bytes, large: bytes) -> None:
    with fake_hub() as impostor:
        impostor.enrolled = hub.enrolled
        impostor.tell(impostor.release(small, 3))
        with live_node(impostor, store, token=None) as node:
            report = impostor.wait_state("failed", 2)
            assert report["error"]["code"] == "unknown-key"
            assert node.infer().json()["digest"] == digest_of(large)


# Enrolment


async def opened(settings: EdgeSettings) -> None:
    async with open_node(settings):
        raise AssertionError("the node must not start")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"token": None}, NotEnrolledError),
        ({"token": "inn1.x"}, InvalidTokenError),
    ],
)
def test_a_node_without_a_hub_or_a_token_does_not_start(
    hub: FakeHub, tmp_path: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        asyncio.run(opened(settings_of(hub, tmp_path, **changes)))


def test_a_store_of_another_node_does_not_start(hub: FakeHub, store: Path) -> None:
    with pytest.raises(NodeMismatchError):
        asyncio.run(opened(settings_of(hub, store, node="n2")))


def test_a_node_waits_for_a_hub_that_is_not_there_yet(hub: FakeHub, tmp_path: Path, small: bytes) -> None:
    refused = 0

    async def starting(request: Request) -> Response | None:
        nonlocal refused
        refused += 1
        return Response(status_code=503) if refused < 4 else None

    hub.before = starting
    hub.tell(hub.release(small, 1, policy=QUICK))
    with live_node(hub, tmp_path) as node:
        hub.wait_state("committed", 1)
        assert node.infer().status_code == 200
    assert refused > 4
