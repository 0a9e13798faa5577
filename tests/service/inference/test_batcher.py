"""Batching: order kept, never over the bound, one bad request fails alone, nobody waits for company."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.inference import batcher as batcher_module
from service.inference.batcher import Batcher
from service.inference.errors import InferenceFailedError, InferenceQueueFullError
from service.inference.providers import CPU
from service.inference.session import Session, open_session
from tests.service.counted import Counted

DIGEST = "sha256:" + "0" * 64
TOLERANCE = 1e-5  # float32; the kernel for several rows may add in another order


class Recorder:
    """A session that keeps the rows of every run that went well; and who is queued, from the metrics."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._counted = Counted()
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    @property
    def waiting(self) -> float:
        """Requests that wait for their batch."""
        return self._counted("inn_infer_pending_requests")

    def run(self, arrays: Any) -> Any:
        """As of the session."""
        results = self._session.run(arrays)
        self.rows.append(len(next(iter(arrays.values()))))
        return results


@pytest.fixture(scope="module")
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def load(folder: Path, content: bytes) -> Session:
    path = folder / "m.onnx"
    path.write_bytes(content)
    return open_session(path, digest=DIGEST, size_bytes=len(content), threads=1, providers=(CPU,))


@pytest.fixture
def linear(tmp_path: Path, make_linear) -> Session:
    return load(tmp_path, make_linear())


@pytest.fixture
def lookup(tmp_path: Path, make_lookup) -> Session:
    return load(tmp_path, make_lookup(entries=5))


@pytest.mark.parametrize("inline_seconds", [0.0, 10.0], ids=["thread", "inline"])
def test_requests_made_together_share_one_run_and_get_their_own_rows(
    linear: Session, executor: ThreadPoolExecutor, inline_seconds: float
) -> None:
    recorder, counted = Recorder(linear), Counted()
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((n, 4)).astype(np.float32) for n in (1, 1, 3, 1)]

    async def scenario() -> list[dict[str, np.ndarray]]:
        batcher = Batcher(recorder, executor, rows_max=32, inline_seconds=inline_seconds)
        return await asyncio.gather(*(batcher.infer({"x": rows}) for rows in inputs))

    results = asyncio.run(scenario())
    assert recorder.rows == [6]
    assert recorder.waiting == 0
    assert counted("inn_infer_batch_rows_sum") == 6
    assert counted("inn_infer_run_duration_seconds_count") == 1
    assert counted("inn_infer_run_duration_seconds_sum") > 0.0
    assert counted("inn_infer_queue_duration_seconds_count") == 4
    for rows, result in zip(inputs, results, strict=True):
        np.testing.assert_allclose(result["y"], linear.run({"x": rows})["y"], rtol=TOLERANCE, atol=TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 11), min_size=1, max_size=20), rows_max=st.integers(1, 8), inline=st.booleans())
def test_no_run_exceeds_the_bound_and_every_row_comes_back_in_order(
    identity: Session, executor: ThreadPoolExecutor, sizes: list[int], rows_max: int, inline: bool
) -> None:
    recorder, counted = Recorder(identity), Counted()
    starts = np.cumsum([0, *sizes])
    inputs = [np.arange(start, start + size, dtype=np.int64) for start, size in zip(starts, sizes, strict=False)]

    async def scenario() -> list[dict[str, np.ndarray]]:
        batcher = Batcher(recorder, executor, rows_max=rows_max, inline_seconds=10.0 if inline else 0.0)
        return await asyncio.gather(*(batcher.infer({"index": indices}) for indices in inputs))

    results = asyncio.run(scenario())
    assert max(recorder.rows) <= rows_max
    assert sum(recorder.rows) == sum(sizes) == counted("inn_infer_batch_rows_sum")
    for indices, result in zip(inputs, results, strict=True):
        np.testing.assert_array_equal(result["y"][:, 0], indices)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A table lookup whose first column is the index itself."""
    from onnx import TensorProto, helper, numpy_helper

    table = np.arange(400, dtype=np.float32)[:, None]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "index"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return load(tmp_path_factory.mktemp("identity"), model.SerializeToString())


@pytest.mark.parametrize("inline_seconds", [0.0, 10.0], ids=["thread", "inline"])
def test_one_bad_request_fails_alone(lookup: Session, executor: ThreadPoolExecutor, inline_seconds: float) -> None:
    async def scenario() -> list[dict[str, np.ndarray] | BaseException]:
        batcher = Batcher(lookup, executor, rows_max=32, inline_seconds=inline_seconds)
        return await asyncio.gather(
            *(batcher.infer({"index": np.array([index], dtype=np.int64)}) for index in (1, 99, 2)),
            return_exceptions=True,
        )

    first, bad, last = asyncio.run(scenario())
    assert isinstance(bad, InferenceFailedError)
    np.testing.assert_array_equal(first["y"], [[2.0, 3.0]])
    np.testing.assert_array_equal(last["y"], [[4.0, 5.0]])


def test_rows_that_mix_are_never_joined_nor_split(tmp_path: Path, make_linear, executor: ThreadPoolExecutor) -> None:
    session = load(tmp_path, make_linear(mixes_rows=True))
    recorder = Recorder(session)
    rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)

    async def scenario() -> list[dict[str, np.ndarray]]:
        batcher = Batcher(recorder, executor, rows_max=2)
        return await asyncio.gather(batcher.infer({"x": rows}), batcher.infer({"x": rows[:2]}))

    whole, part = asyncio.run(scenario())
    assert len(recorder.rows) == 2
    np.testing.assert_array_equal(whole["y"], session.run({"x": rows})["y"])
    np.testing.assert_array_equal(part["y"], session.run({"x": rows[:2]})["y"])


def test_a_client_that_goes_away_leaves_the_others_alone(lookup: Session, executor: ThreadPoolExecutor) -> None:
    recorder = Recorder(lookup)

    async def scenario() -> dict[str, np.ndarray]:
        batcher = Batcher(recorder, executor, rows_max=32)
        tasks = [asyncio.ensure_future(batcher.infer({"index": np.array([index], dtype=np.int64)})) for index in (1, 2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        return await tasks[1]

    np.testing.assert_array_equal(asyncio.run(scenario())["y"], [[4.0, 5.0]])
    assert recorder.rows == [1]
    assert recorder.waiting == 0


def test_a_full_queue_refuses_more(
    lookup: Session, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher_module, "PENDING_MAX", 2)
    index = {"index": np.array([1], dtype=np.int64)}

    async def scenario() -> list[dict[str, np.ndarray] | BaseException]:
        batcher = Batcher(lookup, executor, rows_max=32)
        return await asyncio.gather(*(batcher.infer(index) for _ in range(3)), return_exceptions=True)

    outcomes = asyncio.run(scenario())
    assert [isinstance(outcome, InferenceQueueFullError) for outcome in outcomes] == [False, False, True]


def test_long_runs_do_not_stop_the_event_loop(lookup: Session, executor: ThreadPoolExecutor) -> None:
    """A run that is expected to be long happens in a thread, and what queues meanwhile becomes the next batch."""
    recorder = Recorder(lookup)

    async def scenario() -> None:
        batcher = Batcher(recorder, executor, rows_max=32, inline_seconds=0.0)
        first = asyncio.ensure_future(batcher.infer({"index": np.array([1], dtype=np.int64)}))
        while recorder.waiting == 0 and not first.done():
            await asyncio.sleep(0)
        while recorder.waiting:
            await asyncio.sleep(0)
        assert not first.done()  # the loop ran on while the thread works
        rest = [asyncio.ensure_future(batcher.infer({"index": np.array([2], dtype=np.int64)})) for _ in range(5)]
        await asyncio.gather(first, *rest)

    asyncio.run(scenario())
    assert recorder.rows == [1, 5]
