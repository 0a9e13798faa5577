"""Greedy batching for one session: what queued while the last batch ran is run together, never by waiting.

A fixed waiting window costs every lone client its length. Here a request is put in a queue, and the queue is drained
on the next turn of the event loop, so that requests read in the same turn, or while a batch was running, share a run.

Where a run is expected to be shorter than `INLINE_SECONDS` it happens on the event loop: handing it to a thread and
back costs more than a small network itself. All others run in a thread, one batch of a session at a time, and so do
networks whose time cannot be foretold from the number of rows.

Rows of one batch may differ from a lone run in the last bits, since matrix kernels depend on the number of rows.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from service.ground.metrics import FAST, gauge, histogram
from service.inference.errors import InferenceQueueFullError
from service.inference.session import Session
from service.inference.tensors import Array

INLINE_SECONDS = 0.002
PENDING_MAX = 1024
SMOOTHING = 0.2  # weight of the newest measurement

_PENDING = gauge("inn_infer_pending_requests", "Inference requests waiting for their batch.")
_QUEUE_SECONDS = histogram(
    "inn_infer_queue_duration_seconds", "Time an inference request waited for its batch.", buckets=FAST
)
_RUN_SECONDS = histogram("inn_infer_run_duration_seconds", "Time of one run of a session.", buckets=FAST)
_BATCH_ROWS = histogram("inn_infer_batch_rows", "Rows run together.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))

Arrays = dict[str, Array]


@dataclass(frozen=True)
class _Request:
    arrays: Mapping[str, Array]
    n_rows: int
    result: asyncio.Future[Arrays]
    queued: float


class Batcher:
    """Runs the requests of one session in order of arrival, joined where they may be; lives on one event loop.

    Args:
        session: the session.
        executor: where runs happen that are too long for the event loop.
        rows_max: most rows of one run; longer requests are split when rows are independent. 1 turns joining off.
        inline_seconds: runs expected to be shorter happen on the event loop; 0 moves all to the executor.
    """

    def __init__(
        self,
        session: Session,
        executor: Executor,
        *,
        rows_max: int,
        inline_seconds: float = INLINE_SECONDS,
    ) -> None:
        self.session = session
        self._executor = executor
        self._rows_max = rows_max
        self._inline_seconds = inline_seconds
        self._queue: deque[_Request] = deque()
        self._running = False
        self._drain_scheduled = False
        # A time that could not be measured at loading counts as long until the first run.
        self._first_row_seconds = session.one_row_seconds or inline_seconds
        self._row_seconds = self._first_row_seconds

    async def infer(self, arrays: Mapping[str, Array]) -> Arrays:
        """Run the network on checked arrays.

        Args:
            arrays: one array per input that fits `session.inputs`.

        Returns:
            One array per output, its rows in the order of the request's.

        Raises:
            InferenceFailedError: ONNX Runtime refuses these inputs; requests that came together with it still run.
            InferenceQueueFullError: too many requests wait already.
        """
        if not self.session.rows_are_independent:
            return await self._submit(arrays, 1)
        n_rows = next(iter(arrays.values())).shape[0]
        if n_rows <= self._rows_max:
            return await self._submit(arrays, n_rows)
        pieces = []
        for start in range(0, n_rows, self._rows_max):
            piece = {name: values[start : start + self._rows_max] for name, values in arrays.items()}
            pieces.append(await self._submit(piece, min(self._rows_max, n_rows - start)))
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _submit(self, arrays: Mapping[str, Array], n_rows: int) -> asyncio.Future[Arrays]:
        if len(self._queue) >= PENDING_MAX:
            raise InferenceQueueFullError(len(self._queue), retry_after=1)
        loop = asyncio.get_running_loop()
        request = _Request(arrays, n_rows, loop.create_future(), time.perf_counter())
        self._queue.append(request)
        _PENDING.inc()
        self._schedule(loop)
        return request.result

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._queue and not self._running and not self._drain_scheduled:
            self._drain_scheduled = True
            loop.call_soon(self._drain, loop)

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run one batch; between two batches the event loop gets a turn to read what else has come."""
        self._drain_scheduled = False
        batch = self._take()
        if not batch:
            return
        n_rows = sum(request.n_rows for request in batch)
        expected_seconds = self._first_row_seconds + (n_rows - 1) * self._row_seconds
        if self.session.rows_are_independent and expected_seconds < self._inline_seconds:
            self._deliver(batch, *_run(self.session, batch))
            self._schedule(loop)
            return
        self._running = True
        run = loop.run_in_executor(self._executor, _run, self.session, batch)
        run.add_done_callback(lambda done: self._finished(loop, batch, done))

    def _finished(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Request],
        done: asyncio.Future[tuple[list[Arrays | Exception], float]],
    ) -> None:
        self._running = False
        if done.cancelled():
            for request in batch:
                request.result.cancel()
        elif (error := done.exception()) is not None:
            self._deliver(batch, [error if isinstance(error, Exception) else RuntimeError(error)] * len(batch), 0.0)
        else:
            self._deliver(batch, *done.result())
        self._schedule(loop)

    def _take(self) -> list[_Request]:
        """The next batch: requests from the front of the queue that may be joined, within the row bound."""
        now = time.perf_counter()
        batch: list[_Request] = []
        n_rows = 0
        while self._queue:
            request = self._queue[0]
            if not request.result.done():  # done already: the client has gone
                fits = self.session.rows_are_independent and n_rows + request.n_rows <= self._rows_max
                if batch and not fits:
                    break
                batch.append(request)
                n_rows += request.n_rows
            self._queue.popleft()
            _PENDING.dec()
            _QUEUE_SECONDS.observe(now - request.queued)
        return batch

    def _deliver(self, batch: list[_Request], outcomes: list[Arrays | Exception], seconds: float) -> None:
        n_rows = sum(request.n_rows for request in batch)
        if seconds > 0.0:
            self._learn(n_rows, seconds)
            _BATCH_ROWS.observe(n_rows)
            _RUN_SECONDS.observe(seconds)
        for request, outcome in zip(batch, outcomes, strict=True):
            if request.result.done():
                continue
            if isinstance(outcome, Exception):
                request.result.set_exception(outcome)
            else:
                request.result.set_result(outcome)

    def _learn(self, n_rows: int, seconds: float) -> None:
        if n_rows == 1:
            self._first_row_seconds += SMOOTHING * (seconds - self._first_row_seconds)
        else:
            per_row = max(0.0, seconds - self._first_row_seconds) / (n_rows - 1)
            self._row_seconds += SMOOTHING * (per_row - self._row_seconds)


def _run(session: Session, batch: list[_Request]) -> tuple[list[Arrays | Exception], float]:
    """Run a batch as one; when that fails run each request alone, so that only the bad one fails.

    Returns:
        One outcome per request, and the seconds of the joint run, 0.0 when it failed.
    """
    started = time.perf_counter()
    if len(batch) == 1:
        outcome = _run_alone(session, batch[0])
        return [outcome], time.perf_counter() - started if not isinstance(outcome, Exception) else 0.0
    try:
        joined = {
            spec.name: np.concatenate([request.arrays[spec.name] for request in batch]) for spec in session.inputs
        }
        results = session.run(joined)
    except Exception:  # whatever it is, each request meets it again alone, and the innocent ones do not
        return [_run_alone(session, request) for request in batch], 0.0
    seconds = time.perf_counter() - started
    outcomes: list[Arrays | Exception] = []
    start = 0
    for request in batch:
        stop = start + request.n_rows
        outcomes.append({name: values[start:stop] for name, values in results.items()})
        start = stop
    return outcomes, seconds


def _run_alone(session: Session, request: _Request) -> Arrays | Exception:
    try:
        return session.run(request.arrays)
    except Exception as error:  # delivered to the one that asked
        return error
