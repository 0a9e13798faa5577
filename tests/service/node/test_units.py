"""The small parts: pauses, percentiles, judgements, the folder."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.release import Policy
from service.ground.errors import (
    DigestMismatchError,
    InvalidRequestError,
    NotReadyError,
    StoreFullError,
    StoreInUseError,
)
from service.node.agent.backoff import Backoff
from service.node.benchmark.device_info import Window, percentile_of
from service.node.deployment.trial import Trial
from service.node.errors import ErrorShareExceededError, LatencyExceededError
from service.node.store import NodeStore, Outcome
from tests.service.node.fake_hub import FakeHub, digest_of


def test_pauses_double_up_to_the_longest_and_start_over() -> None:
    pauses = Backoff(1.0, 20.0, chance=random.Random(0))
    found = [pauses.failed() for _ in range(8)]
    for pause, longest in zip(found, [1, 2, 4, 8, 16, 20, 20, 20], strict=True):
        assert longest / 2 <= pause <= longest
    pauses.succeeded()
    assert pauses.failed() <= 1.0


def test_a_hub_that_says_when_to_come_again_is_heard_within_bounds() -> None:
    pauses = Backoff(1.0, 20.0)
    assert pauses.failed(NotReadyError("starting", 7)) == 7.0
    assert pauses.failed(NotReadyError("starting", 10**9)) == 20.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.1, 100.0))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], percentile: float) -> None:
    found = percentile_of(values, percentile)
    assert found in values
    assert sum(value <= found for value in values) >= percentile / 100.0 * len(values) - 1e-9


def window_of(seconds: list[float], failures: int) -> Window:
    window = Window()
    for one in seconds:
        window.answered(one)
    for _ in range(failures):
        window.failed()
    return window


@pytest.mark.parametrize(
    ("seconds", "failures", "now", "expected"),
    [
        ([], 0, 0.0, None),
        ([], 0, 30.0, "good"),
        ([0.001] * 20, 0, 1.0, None),  # the time is not over
        ([0.001] * 20, 0, 30.0, "good"),
        ([0.001] * 19, 1, 1.0, None),  # 5 % may fail
        ([0.001] * 18, 2, 1.0, ErrorShareExceededError),
        ([0.001] * 3, 1, 1.0, None),  # too few to judge before the end
        ([0.001] * 3, 1, 30.0, ErrorShareExceededError),
        ([0.001] * 18 + [0.5] * 2, 0, 1.0, LatencyExceededError),
        ([0.001] * 19 + [0.5], 0, 1.0, None),  # the 95th percentile of 20 is the 19th
        ([0.5] * 10, 0, 30.0, "good"),  # too few for a percentile
    ],
)
def test_a_trial_is_judged_by_its_policy(seconds: list[float], failures: int, now: float, expected: Any) -> None:
    policy = Policy(max_error_share=0.05, max_p95_ms=10.0, watch_seconds=30.0, watch_requests=20)
    judgement = Trial(policy, window_of(seconds, failures), 0.0).judge(now)
    if isinstance(expected, type):
        assert isinstance(judgement, expected)
    else:
        assert judgement == expected


def test_a_window_forgets_old_latencies_but_counts_all() -> None:
    async def main() -> None:
        window = Window(size=3)
        for seconds in (9.0, 0.001, 0.002, 0.003):
            window.answered(seconds)
        assert (window.requests, window.measured, window.percentile_ms(100.0)) == (4, 3, 3.0)
        assert window.changed.is_set()

    asyncio.run(main())


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """An open folder."""
    opened = NodeStore(tmp_path / "node")
    yield opened
    opened.close()


def test_a_folder_belongs_to_one_process(store: NodeStore) -> None:
    with pytest.raises(StoreInUseError):
        NodeStore(store.root)


def test_pointers_hold_whole_releases(store: NodeStore, hub: FakeHub, small: bytes) -> None:
    assert store.read("active") is None
    document = hub.release(small, 3)
    store.write("active", document)
    kept = store.read("active")
    assert kept is not None
    assert (kept.document, kept.release.version) == (document, 3)
    store.clear("active")
    store.clear("active")
    assert store.read("active") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"signed": 5}', b'{"signed": {"version": 1}}', b"\xff"])
def test_a_damaged_pointer_counts_as_none(store: NodeStore, content: bytes) -> None:
    (store.root / "active").write_bytes(content)
    assert store.read("active") is None
    (store.root / "outcome").write_bytes(content)
    assert store.read_outcome() is None


def test_outcomes_are_kept(store: NodeStore) -> None:
    outcome = Outcome(4, "failed", {"code": "x", "detail": "y", "generation": 4}, 2)
    store.write_outcome(outcome)
    assert store.read_outcome() == outcome


def test_a_download_gets_its_name_only_with_its_digest(store: NodeStore) -> None:
    digest = digest_of(b"content")
    store.part(digest).write_bytes(b"content")
    store.adopt(digest)
    assert store.holds(digest, 7)
    assert not store.holds(digest, 8)
    store.artifact(digest).write_bytes(b"CONTENT")
    assert not store.holds(digest, 7)
    store.part(digest).write_bytes(b"else")
    with pytest.raises(DigestMismatchError):
        store.adopt(digest)
    assert not store.part(digest).exists()


@pytest.mark.parametrize("digest", ["sha256:../../etc", "../x", "sha256:" + "A" * 64, "sha256:" + "a" * 64 + "\n"])
def test_paths_are_made_of_digests_only(store: NodeStore, digest: str) -> None:
    for place in (store.artifact, store.part):
        with pytest.raises(InvalidRequestError):
            place(digest)


def test_room_is_checked_with_a_margin_for_pointers(tmp_path: Path) -> None:
    store = NodeStore(tmp_path, disk_free=lambda folder: (1 << 20) + 100)
    store.check_room(100)
    with pytest.raises(StoreFullError):
        store.check_room(101)
    store.close()


def test_what_no_pointer_needs_and_nobody_holds_is_removed(store: NodeStore, hub: FakeHub, small: bytes) -> None:
    digests = [digest_of(small), digest_of(b"held"), digest_of(b"stray")]
    store.write("previous", hub.release(small, 1))
    for digest in digests:
        store.artifact(digest).write_bytes(b"")
        store.part(digest).write_bytes(b"")
    (store.root / "staging" / "folder").mkdir()
    with store.held([digests[1]]):
        store.collect()
    assert sorted(path.name[:64] for path in (store.root / "artifacts").iterdir()) == sorted(
        digest[7:] for digest in digests[:2]
    )
    assert len(list((store.root / "staging").iterdir())) == 2
