"""What can go wrong on the way to a release: the node serves the last good size, says why, and recovers by itself."""

from __future__ import annotations

import asyncio
import errno
import gzip
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from service.contract.release import Policy
from service.ground.errors import StoreFullError
from service.node import download
from service.node.store import NodeStore
from tests.service.node.fake_hub import (
    QUICK,
    Behaviour,
    FakeHub,
    cut_after,
    digest_of,
    manifest_of,
    vectors_of,
    whole_or_range,
)
from tests.service.node.faults import check_kept_and_recovered, fails_with, serves
from tests.service.node.networks import linear_network
from tests.service.node.nodes import FEATURES, LiveNode, live_node

# Downloads


def test_a_corrupted_byte_is_found_and_fetched_again_until_it_is_right(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes
) -> None:
    async def flipped(request: Request, content: bytes) -> Response:
        position = len(content) // 2
        return Response(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])

    hub.serve_artifact = flipped
    hub.tell(hub.release(large, 2))
    report = fails_with(hub, "digest-mismatch")
    assert report["next_retry"] is not None
    assert report["attempt"] >= 1
    assert serves(node, small)
    hub.serve_artifact = whole_or_range
    hub.wait_state("committed", 2)
    assert serves(node, large)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_download_that_is_cut_goes_on_where_it_stopped(
    hub: FakeHub, node: LiveNode, large: bytes, share: float
) -> None:
    hub.serve_artifact = cut_after(share)
    hub.tell(hub.release(large, 2))
    hub.wait_state("committed", 2)
    assert serves(node, large)
    fetched = [headers for method, path, headers in hub.asked if path == f"/artifacts/{digest_of(large)}"]
    assert "range" not in fetched[0]
    assert fetched[1]["range"] == f"bytes={int(share * len(large))}-"
    assert fetched[1]["if-range"] == f'"{digest_of(large)}"'
    assert all(headers["accept-encoding"] == "identity" for headers in fetched)


def test_a_slow_drip_ends_in_time_and_goes_on_later(hub: FakeHub, small: bytes, large: bytes, tmp_path: Path) -> None:
    async def drip(request: Request, content: bytes) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for position in range(len(content)):
                yield content[position : position + 1]
                await asyncio.sleep(0.05)

        return StreamingResponse(parts(), headers={"content-length": str(len(content))})

    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path, download_grace_seconds=0.3) as node:
        hub.wait_state("committed", 1)
        hub.serve_artifact = drip
        slow = linear_network(seed=5, hidden=16)
        hub.tell(hub.release(slow, 2))
        check_kept_and_recovered(hub, node, "download-interrupted", small, large, version=3)


def _answers(**headers: str) -> Behaviour:
    async def answer(request: Request, content: bytes) -> Response:
        return Response(content, headers=headers)

    return answer


async def _too_long(request: Request, content: bytes) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 16)

    return StreamingResponse(parts())


async def _redirect(request: Request, content: bytes) -> Response:
    return RedirectResponse("/elsewhere")


async def _bomb(request: Request, content: bytes) -> Response:
    return Response(gzip.compress(bytes(1 << 24)), headers={"content-encoding": "gzip"})


async def _short_header(request: Request, content: bytes) -> Response:
    return Response(content[: len(content) // 2])


@pytest.mark.parametrize("behaviour", [_too_long, _redirect, _bomb, _short_header])
def test_artifacts_of_a_hostile_hub(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes, behaviour: Behaviour, tmp_path: Path
) -> None:
    hub.serve_artifact = behaviour
    hub.tell(hub.release(large, 2))
    fails_with(hub, "invalid-answer")
    assert serves(node, small)
    assert not any(path == "/elsewhere" for _, path, _ in hub.asked)
    assert all(path.stat().st_size <= len(large) for path in (tmp_path / "store" / "staging").iterdir())
    hub.serve_artifact = whole_or_range
    hub.wait_state("committed", 2)
    assert serves(node, large)


@pytest.mark.parametrize("kind", ["redirect", "giant", "bomb", "nonsense", "no-json"])
def test_answers_of_a_hostile_hub(hub: FakeHub, node: LiveNode, small: bytes, large: bytes, kind: str) -> None:
    async def hostile(request: Request) -> Response | None:
        if not request.url.path.endswith("/desired"):
            return None
        if kind == "redirect":
            return RedirectResponse("/elsewhere")
        if kind == "giant":
            return Response(b'{"generation": 2, "release": {"signed": "' + bytes(b"x" * (4 << 20)) + b'"}}')
        if kind == "bomb":
            return Response(gzip.compress(bytes(1 << 24)), headers={"content-encoding": "gzip"})
        return Response(b'{"generation": "two"}' if kind == "nonsense" else b"<html>")

    hub.before = hostile
    deadline = time.monotonic() + 20
    while (shown := node.status())["hub"]["error"] is None:
        assert time.monotonic() < deadline
    assert shown["hub"]["error"]["code"] == "invalid-answer"
    assert serves(node, small)
    hub.before = None
    hub.tell(hub.release(large, 2))
    hub.wait_state("committed", 2)
    assert not any(path == "/elsewhere" for _, path, _ in hub.asked)


# Disk


def test_a_disk_that_is_too_small_is_told_before_the_download(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes
) -> None:
    store = node.node.store
    free, store._disk_free = store._disk_free, lambda folder: 1000
    hub.tell(hub.release(large, 2))
    report = fails_with(hub, "store-full")
    assert report["next_retry"] is not None
    assert serves(node, small)
    assert digest_of(large) not in " ".join(path for _, path, _ in hub.asked)
    store._disk_free = free
    hub.wait_state("committed", 2)
    assert serves(node, large)


def test_a_disk_that_fills_up_in_the_middle(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullFile:
        """A file on a disk without room."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, block: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    class FullPart(download._Part):
        def open(self, size_bytes: int) -> None:
            super().open(size_bytes)
            self._file = FullFile(self._file)  # type: ignore[assignment]

    with monkeypatch.context() as patched:
        patched.setattr(download, "_Part", FullPart)
        hub.tell(hub.release(large, 2))
        fails_with(hub, "store-full")
        assert serves(node, small)
    hub.wait_state("committed", 2)
    assert serves(node, large)


def test_an_artifact_larger_than_any_disk(hub: FakeHub, node: LiveNode, small: bytes, large: bytes) -> None:
    hub.tell(hub.release(large, 2, manifest=manifest_of(large, bytes=2**52)))
    check_kept_and_recovered(hub, node, "store-full", small, large, version=3)


# The network itself


def test_a_network_that_fails_its_self_test_is_not_tried_again(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes
) -> None:
    wrong = vectors_of(linear_network(seed=9))
    hub.tell(hub.release(large, 2, self_test=wrong))
    report = fails_with(hub, "self-test-failed")
    assert report["next_retry"] is None
    assert report["error"]["generation"] == report["observed_generation"] == 2
    asked = len([path for _, path, _ in hub.asked if path.startswith("/artifacts/")])
    n_reports = len(hub.reports)
    hub.wait_report(lambda report: len(hub.reports) > n_reports + 1)  # the node goes on asking and reporting
    assert len([path for _, path, _ in hub.asked if path.startswith("/artifacts/")]) == asked
    check_kept_and_recovered(hub, node, "self-test-failed", small, large, version=3)


def test_a_file_that_is_no_network(hub: FakeHub, node: LiveNode, small: bytes, large: bytes) -> None:
    junk = b"not an ONNX file" * 100
    manifest = manifest_of(large, digest=digest_of(junk), bytes=len(junk))
    hub.tell(hub.release(junk, 2, manifest=manifest, self_test=vectors_of(large)))
    check_kept_and_recovered(hub, node, "inference-failed", small, large, version=3)


@pytest.mark.parametrize("with_clients", [True, False])
def test_latency_over_the_bound_after_the_switch(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes, with_clients: bool
) -> None:
    policy = Policy(max_p95_ms=1e-6, watch_seconds=60 if with_clients else 0.1, watch_requests=5)
    hub.tell(hub.release(large, 2, policy=policy))
    if with_clients:
        hub.wait_state("active", 2)
        for _ in range(5):
            assert node.infer().status_code == 200
    report = hub.wait_state("rolled-back", 2)
    assert report["error"]["code"] == "latency-exceeded"
    assert report["active"]["version"] == 1
    assert serves(node, small)
    hub.tell(hub.release(large, 3, policy=QUICK))
    hub.wait_state("committed", 3)
    assert serves(node, large)


def test_requests_that_a_new_network_cannot_run_are_answered_by_the_old_one_until_it_is_back(
    hub: FakeHub, node: LiveNode, small: bytes
) -> None:
    narrow = linear_network(seed=3, limit=2)
    hub.tell(hub.release(narrow, 2, policy=Policy(watch_seconds=60, watch_requests=4)))
    hub.wait_state("active", 2)
    assert serves(node, narrow)
    for _ in range(3):
        answer = node.infer([[5.0, 0.0, 0.0, 0.0]])
        assert answer.status_code == 200, answer.text
        assert answer.json()["digest"] == digest_of(small)
    report = hub.wait_state("rolled-back", 2)
    assert report["error"]["code"] == "error-share-exceeded"
    assert serves(node, small)


def test_requests_that_no_network_can_run_are_the_clients(hub: FakeHub, tmp_path: Path) -> None:
    first, second = (linear_network(seed=seed, limit=2) for seed in (3, 4))
    hub.tell(hub.release(first, 1))
    with live_node(hub, tmp_path) as node:
        hub.wait_state("committed", 1)
        hub.tell(hub.release(second, 2, policy=Policy(watch_seconds=1.0, watch_requests=2)))
        hub.wait_state("active", 2)
        for _ in range(5):
            assert node.infer([[5.0] * FEATURES]).status_code == 422
        hub.wait_state("committed", 2)
        assert serves(node, second)


def test_a_problem_of_the_hub_is_shown_and_nothing_changes(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes
) -> None:
    hub.tell(None, generation=2, problem={"type": "/problems/budget-unreachable", "detail": "too small", "status": 422})
    report = hub.wait_report(lambda report: report["error"] is not None)
    assert report["error"] == {"code": "budget-unreachable", "detail": "too small", "generation": 2}
    assert (report["state"], report["observed_generation"]) == ("committed", 2)
    assert serves(node, small)
    hub.tell(hub.release(large, 3))
    hub.wait_state("committed", 3)


def test_a_newer_release_takes_the_place_of_one_that_is_being_fetched(
    hub: FakeHub, node: LiveNode, large: bytes
) -> None:
    async def stuck(request: Request, content: bytes) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield content[:100]
            await asyncio.sleep(1.5)

        return StreamingResponse(parts(), headers={"content-length": str(len(content))})

    hub.serve_artifact = stuck
    hub.tell(hub.release(linear_network(seed=7), 2))
    hub.wait_state("downloading", 2)
    hub.serve_artifact = whole_or_range
    hub.tell(hub.release(large, 3))
    hub.wait_state("committed", 3)
    assert serves(node, large)
    assert not any((node.node.store.root / "staging").iterdir())


def test_going_back_needs_no_room_on_the_disk(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.tell(hub.release(large, 2, policy=Policy(max_p95_ms=1e-6, watch_seconds=60, watch_requests=2)))
    hub.wait_state("active", 2)

    def full(self: NodeStore, name: str, value: Any) -> None:
        raise StoreFullError(needed_bytes=1, capacity_bytes=1, free_bytes=0)

    with monkeypatch.context() as patched:
        patched.setattr(NodeStore, "_replace", full)
        for _ in range(2):
            assert node.infer().status_code == 200
        hub.wait_state("rolled-back", 2)
        assert serves(node, small)
    hub.tell(hub.release(large, 3))
    report = hub.wait_state("committed", 3)
    assert report["previous"]["digest"] == digest_of(small)
