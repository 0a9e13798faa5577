"""What every test of a fault asks: the node serves the last good size, says why, and recovers by itself."""

from __future__ import annotations

from typing import Any

from tests.service.node.fake_hub import FakeHub, digest_of, whole_or_range
from tests.service.node.nodes import LiveNode


def serves(node: LiveNode, content: bytes) -> bool:
    answer = node.infer()
    assert answer.status_code == 200, answer.text
    return bool(answer.json()["digest"] == digest_of(content))


def fails_with(hub: FakeHub, code: str) -> dict[str, Any]:
    return hub.wait_report(
        lambda report: report["state"] == "failed" and report["error"] is not None and report["error"]["code"] == code
    )


def check_kept_and_recovered(
    hub: FakeHub, node: LiveNode, code: str, small: bytes, large: bytes, version: int = 2
) -> dict[str, Any]:
    """The node said why and serves `small`; told a good release it takes that up."""
    report = fails_with(hub, code)
    assert report["active"]["digest"] == digest_of(small)
    assert serves(node, small)
    hub.serve_artifact = whole_or_range
    hub.before = None
    hub.tell(hub.release(large, version))
    hub.wait_state("committed", version)
    assert serves(node, large)
    return report
