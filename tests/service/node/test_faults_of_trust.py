"""What a node is told that it must not believe: it serves the last good size, says why, and recovers by itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from service.node.agent import supervise as agent
from service.signing.envelope import sign
from service.signing.keys import KeyPair
from tests.service.node.fake_hub import DAY, FakeHub, digest_of, whole_or_range
from tests.service.node.faults import check_kept_and_recovered, fails_with, serves
from tests.service.node.nodes import LiveNode


def test_a_document_that_was_changed(hub: FakeHub, node: LiveNode, small: bytes, large: bytes) -> None:
    document = hub.release(large, 2)
    document["signed"]["policy"]["watch_seconds"] = 1
    hub.tell(document)
    check_kept_and_recovered(hub, node, "untrusted-signature", small, large)


def test_a_key_that_nobody_knows(hub: FakeHub, node: LiveNode, small: bytes, large: bytes) -> None:
    hub.tell(hub.release(large, 2, signed_by=KeyPair.generate()))
    check_kept_and_recovered(hub, node, "unknown-key", small, large)


def test_a_key_that_was_revoked_and_the_one_that_took_its_place(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes
) -> None:
    stolen = hub.signing
    hub.rotate()
    hub.tell(hub.release(large, 2, signed_by=stolen))
    check_kept_and_recovered(hub, node, "revoked-key", small, large)


def test_a_stolen_key_does_no_harm_that_lasts_longer_than_the_key(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "KEYRING_SECONDS", 0.2)
    far = int(time.time()) + 360 * DAY
    hub.tell(hub.release(large, 2**53 - 1, issued=far, lifetime=400 * DAY))
    hub.wait_state("committed", 2**53 - 1)
    assert hub.reports[-1]["trusted"] == {"time": far, "version": 2**53 - 1}
    honest = KeyPair.generate()
    hub.tell(hub.release(small, 2, signed_by=honest))
    hub.rotate(honest)
    report = hub.wait_state("committed", 2)
    assert report["trusted"]["version"] == 2
    assert report["trusted"]["time"] < far
    assert serves(node, small)


def test_a_number_that_a_thief_took_is_free_again(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "KEYRING_SECONDS", 0.2)
    hub.tell(hub.release(large, 2))  # by the thief
    hub.wait_state("committed", 2)
    honest = KeyPair.generate()
    hub.tell(hub.release(small, 2, signed_by=honest))
    hub.rotate(honest)
    hub.reports.clear()
    hub.wait_report(lambda report: report["active"]["digest"] == digest_of(small) and report["state"] == "committed")
    assert serves(node, small)


def test_a_thief_whose_release_is_on_its_way_is_left_standing(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "KEYRING_SECONDS", 0.2)
    asked: list[str] = []

    async def never(request: Request, content: bytes) -> Response:
        asked.append(request.url.path)
        await asyncio.sleep(1)
        return await whole_or_range(request, content)

    hub.serve_artifact = never
    hub.tell(hub.release(large, 2**53 - 1))
    hub.wait_state("downloading", 2**53 - 1)
    honest = KeyPair.generate()
    hub.tell(hub.release(small, 1, signed_by=honest))
    hub.rotate(honest)
    hub.reports.clear()
    report = hub.wait_state("committed", 1)
    assert report["trusted"]["version"] == 1
    time.sleep(1.5)  # the download would have ended
    assert serves(node, small)
    assert not (tmp_path / "staged").exists()


def test_a_problem_that_somebody_made_up_does_not_hide_what_comes_with_its_number(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "KEYRING_SECONDS", 0.2)
    hub.tell(None, generation=2, problem={"type": "/problems/unknown-model", "detail": "made up"})
    hub.wait_report(lambda report: report["error"] is not None and report["observed_generation"] == 2)
    hub.tell(hub.release(large, 2))
    hub.wait_report(lambda report: report["state"] == "committed" and (report["active"] or {}).get("version") == 2)
    assert serves(node, large)


def test_an_older_version_again(hub: FakeHub, node: LiveNode, small: bytes, large: bytes) -> None:
    old = hub.release(small, 1)
    hub.tell(hub.release(large, 2))
    hub.wait_state("committed", 2)
    hub.tell(old, generation=3)
    report = fails_with(hub, "replayed-document")
    assert report["active"]["version"] == 2
    assert report["error"]["generation"] == 1
    assert serves(node, large)
    hub.tell(hub.release(small, 3))  # going back is a new version
    hub.wait_state("committed", 3)
    assert serves(node, small)


def test_a_release_that_expired_and_is_then_signed_anew(
    hub: FakeHub, node: LiveNode, small: bytes, large: bytes
) -> None:
    hub.tell(hub.release(large, 2, issued=int(time.time()) - 100, lifetime=50))
    check_kept_and_recovered(hub, node, "expired-document", small, large)


def test_a_release_for_another_node(hub: FakeHub, node: LiveNode, small: bytes, large: bytes) -> None:
    hub.tell(hub.release(large, 2, node="n2"))
    check_kept_and_recovered(hub, node, "invalid-document", small, large)


def test_a_path_in_a_digest(hub: FakeHub, node: LiveNode, small: bytes, large: bytes) -> None:
    signed = hub.release(large, 2)["signed"]
    signed["manifest"]["digest"] = "sha256:../../../../tmp/escape"
    hub.tell(sign(signed, [hub.signing]), generation=2)
    check_kept_and_recovered(hub, node, "invalid-document", small, large)


def test_a_clock_that_is_wrong_costs_one_more_request(hub: FakeHub, node: LiveNode, small: bytes, large: bytes) -> None:
    hub.clock = lambda: time.time() + 10_000
    hub.tell(hub.release(large, 2))
    hub.wait_state("committed", 2)
    assert serves(node, large)
