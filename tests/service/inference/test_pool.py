"""The pool: opened once, bounded, never closed in use, and memory comes back."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from service.ground.errors import InvalidRequestError, UnknownArtifactError
from service.inference import session_pool as pool_module
from service.inference.errors import InferenceFailedError, SessionsBusyError, SessionTooLargeError
from service.inference.session import Session, open_session
from service.inference.session_pool import SessionPool
from service.store.local import LocalStore

ROWS = np.ones((1, 4), dtype=np.float32)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_who_ask_at_once_share_one_loading(
    store: LocalStore, put, make_linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(make_linear())
    opened: list[str] = []

    def counting(path: Path, **options) -> Session:
        opened.append(options["digest"])
        return open_session(path, **options)

    monkeypatch.setattr(pool_module, "open_session", counting)

    async def scenario() -> list[np.ndarray]:
        pool = SessionPool(store, sessions_max=2, memory_bytes=1 << 20, threads=1)

        async def one() -> np.ndarray:
            async with pool.use(digest) as batcher:
                return (await batcher.infer({"x": ROWS}))["y"]

        try:
            return await asyncio.gather(*(one() for _ in range(20)))
        finally:
            await pool.close()

    results = asyncio.run(scenario())
    assert opened == [digest]
    assert all(np.allclose(result, results[0]) for result in results)


def test_the_least_recently_used_idle_session_goes_first(store: LocalStore, put, make_linear) -> None:
    digests = [put(make_linear(seed=seed)) for seed in range(3)]

    async def scenario() -> None:
        pool = SessionPool(store, sessions_max=2, memory_bytes=1 << 20, threads=1)
        for digest in (digests[0], digests[1], digests[0], digests[2]):
            async with pool.use(digest):
                pass
        assert pool.digests == [digests[0], digests[2]]
        await pool.close()
        assert pool.digests == []
        assert pool.size_bytes == 0

    asyncio.run(scenario())


def test_a_session_in_use_is_never_closed_and_its_artifact_never_evicted(store: LocalStore, put, make_linear) -> None:
    first, second = put(make_linear(seed=0)), put(make_linear(seed=1))

    async def scenario() -> None:
        pool = SessionPool(store, sessions_max=1, memory_bytes=1 << 20, threads=1, busy_wait_seconds=0.05)
        async with pool.use(first) as batcher:
            with pytest.raises(SessionsBusyError) as caught:
                async with pool.use(second):
                    pass
            assert caught.value.fields["retry_after"] >= 1
            assert not store.remove(first)
            assert (await batcher.infer({"x": ROWS}))["y"].shape == (1, 3)
        async with pool.use(second):
            assert pool.digests == [second]
        assert store.remove(first)
        await pool.close()
        assert store.remove(second)

    asyncio.run(scenario())


def test_a_waiting_request_gets_the_place_that_becomes_free(store: LocalStore, put, make_linear) -> None:
    first, second = put(make_linear(seed=0)), put(make_linear(seed=1))

    async def scenario() -> None:
        pool = SessionPool(store, sessions_max=1, memory_bytes=1 << 20, threads=1, busy_wait_seconds=30.0)

        async def waiter() -> tuple[int, ...]:
            async with pool.use(second) as batcher:
                return (await batcher.infer({"x": ROWS}))["y"].shape

        async with pool.use(first):
            waiting = asyncio.ensure_future(waiter())
            for _ in range(5):
                await asyncio.sleep(0)
            assert not waiting.done()
        assert await waiting == (1, 3)
        await pool.close()

    asyncio.run(scenario())


def test_bytes_are_bounded_as_well_as_the_number(store: LocalStore, put, make_linear) -> None:
    contents = [make_linear(features=100, seed=seed) for seed in range(3)]
    digests = [put(content) for content in contents]
    bound = 2 * len(contents[0]) + 10

    async def scenario() -> None:
        pool = SessionPool(store, sessions_max=10, memory_bytes=bound, threads=1)
        for digest in digests:
            async with pool.use(digest):
                assert pool.size_bytes <= bound
        assert len(pool.digests) == 2
        small = SessionPool(store, sessions_max=10, memory_bytes=10, threads=1)
        with pytest.raises(SessionTooLargeError):
            async with small.use(digests[0]):
                pass
        await pool.close()
        await small.close()

    asyncio.run(scenario())
    assert all(store.remove(digest) for digest in digests)  # no lease is left


def test_a_file_that_does_not_load_leaves_nothing_behind_and_is_tried_again(store: LocalStore, put) -> None:
    digest = put(b"no network")

    async def scenario() -> None:
        pool = SessionPool(store, sessions_max=1, memory_bytes=1 << 20, threads=1)
        for _ in range(2):
            with pytest.raises(InferenceFailedError):
                async with pool.use(digest):
                    pass
        assert pool.digests == []
        assert pool.size_bytes == 0
        await pool.close()

    asyncio.run(scenario())
    assert store.remove(digest)


def test_unknown_artifacts_are_told(store: LocalStore) -> None:
    async def scenario() -> None:
        pool = SessionPool(store, sessions_max=1, memory_bytes=1 << 20, threads=1)
        with pytest.raises(UnknownArtifactError):
            async with pool.use("sha256:" + "0" * 64):
                pass
        with pytest.raises(InvalidRequestError):
            async with pool.use("sha256:../../etc/passwd"):
                pass
        await pool.close()

    asyncio.run(scenario())


def test_evicting_idle_sessions_gives_their_artifacts_back(store: LocalStore, put, make_linear) -> None:
    first, second = put(make_linear(seed=0)), put(make_linear(seed=1))

    async def scenario() -> None:
        pool = SessionPool(store, sessions_max=4, memory_bytes=1 << 20, threads=1)
        async with pool.use(second):
            async with pool.use(first):
                pass
            assert await pool.evict_idle() == 1
            assert store.remove(first)
            assert not store.remove(second)
        await pool.close()

    asyncio.run(scenario())


@pytest.mark.slow
def test_memory_stays_bounded_while_200_sizes_come_and_go(store: LocalStore, put, make_linear) -> None:
    """Each network has 1 MiB of weights; four may be open, so 200 must not leave their memory behind."""
    contents = [make_linear(features=512, classes=512 - size, seed=size) for size in range(20)]
    digests = [put(content) for content in contents]
    n_bytes = len(contents[0])
    del contents
    rows = np.ones((1, 512), dtype=np.float32)

    async def scenario() -> tuple[int, int]:
        pool = SessionPool(store, sessions_max=4, memory_bytes=1 << 30, threads=1)

        async def cycle(rounds: int) -> None:
            for _ in range(rounds):
                for digest in digests:
                    async with pool.use(digest) as batcher:
                        await batcher.infer({"x": rows})

        await cycle(2)
        before = resident_bytes()
        await cycle(8)
        after = resident_bytes()
        await pool.close()
        return before, after

    before, after = asyncio.run(scenario())
    assert after - before < 8 * n_bytes, f"grew by {(after - before) / 2**20:.1f} MiB"
