"""Switching under load: clients see no failed request, and the session that was replaced is let go."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path

import httpx

from service.contract.release import Policy
from tests.service.node.fake_hub import QUICK, FakeHub, digest_of
from tests.service.node.networks import linear_network
from tests.service.node.nodes import FEATURES, live_node

RATE = 50.0
"""Requests a second that the clients keep up at least."""
CLIENTS = 4


def test_no_request_fails_while_networks_are_switched_and_rolled_back(
    hub: FakeHub, small: bytes, tmp_path: Path
) -> None:
    sizes = [small, *(linear_network(seed=seed, hidden=256 * seed) for seed in range(2, 5))]
    slow = linear_network(seed=8)
    failures: list[str] = []
    digests: list[str] = []
    stop = threading.Event()

    def client(url: str) -> None:
        with httpx.Client(base_url=url, timeout=10.0, trust_env=False) as http:
            while not stop.is_set():
                try:
                    answer = http.post("/infer", json={"inputs": {"x": [[1.0] * FEATURES]}})
                except httpx.HTTPError as error:
                    failures.append(repr(error))
                    continue
                if answer.status_code != 200:
                    failures.append(answer.text)
                    continue
                digests.append(answer.json()["digest"])

    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path) as node:
        hub.wait_state("committed", 1)
        threads = [threading.Thread(target=client, args=(node.url,)) for _ in range(CLIENTS)]

        def await_answers() -> None:
            seen = len(digests)
            while len(digests) < seen + 20:
                assert threads[0].is_alive()
                time.sleep(0.001)

        started = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            await_answers()  # a first switch may take less time than the clients need to connect
            for version, content in enumerate(sizes[1:], start=2):
                hub.tell(hub.release(content, version, policy=Policy(watch_seconds=0.1, watch_requests=3)))
                hub.wait_state("committed", version)
            last = len(sizes)
            hub.tell(hub.release(slow, last + 1, policy=Policy(max_p95_ms=1e-6, watch_seconds=30, watch_requests=10)))
            hub.wait_state("rolled-back", last + 1)
            await_answers()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        seconds = time.monotonic() - started
    assert failures == []
    assert len(digests) / seconds >= RATE
    assert set(digests) == {digest_of(content) for content in [*sizes, slow]}
    assert digests[-1] == digest_of(sizes[-1])


def test_the_session_that_was_replaced_is_let_go(hub: FakeHub, small: bytes, large: bytes, tmp_path: Path) -> None:
    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path) as node:
        hub.wait_state("committed", 1)
        assert node.infer().status_code == 200
        replaced = weakref.ref(node.node.serving.take().batcher.session)
        hub.tell(hub.release(large, 2, policy=QUICK))
        hub.wait_state("committed", 2)
        assert node.infer().json()["digest"] == digest_of(large)
        deadline = time.monotonic() + 10
        while replaced() is not None and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        assert replaced() is None
        files = sorted(path.name for path in (tmp_path / "artifacts").iterdir())
        assert files == sorted(f"{digest_of(content)[7:]}.onnx" for content in (small, large))


def test_the_same_artifact_in_a_new_release_changes_nothing_but_its_version(
    hub: FakeHub, small: bytes, tmp_path: Path
) -> None:
    hub.tell(hub.release(small, 1))
    with live_node(hub, tmp_path) as node:
        hub.wait_state("committed", 1)
        session = node.node.serving.take().batcher.session
        hub.tell(hub.release(small, 2, policy=Policy(watch_seconds=600, watch_requests=1000)))
        report = hub.wait_state("committed", 2)
        assert report["active"]["version"] == 2
        assert node.node.serving.take().batcher.session is session
