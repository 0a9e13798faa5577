"""Measures artifacts on the device: latency percentiles with a known confidence, memory, little disturbance of serving.

`measure_ladder` fetches, measures and hands back one artifact after the other and gives the `timings` rows of the
fleet's report. `measure_artifact` measures one file, for instance the active artifact now and then: the hub compares
its row with the budget, since latencies of requests include queueing and other batches.

Each artifact is run in a process of its own (`service.node.benchmark.worker`), with the session options of serving.
Runs come in short bursts with a pause as long after each, and a burst waits while the node is answering requests,
though not for ever: a busy device is measured busy. Every run counts, since what looks like an outlier is what
percentiles are about. Runs go on until the confidence interval of the 95th percentile
(`service.node.benchmark.statistics`) is narrow, or the time of an artifact is over. The interval takes runs for
independent, which is why bursts are spread over time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.contract.measurement_order import Rung
from service.ground.errors import ServiceError
from service.node.benchmark.statistics import estimate

log = logging.getLogger(__name__)

LINE_BYTES_MAX = 1 << 24


@dataclass(frozen=True)
class BenchmarkSettings:
    """How thoroughly one artifact is measured, and how gently.

    Attributes:
        warm_up_seconds: of runs that do not count, before the first.
        burst_seconds: of runs without a pause; a run that takes longer is a burst of its own.
        pause_share: length of the pause after a burst, relative to the burst.
        least_runs: before the time is over, unless the artifact is slower than that allows.
        least_bursts: before the interval may end it.
        width: of the confidence interval, relative to the percentile, that is narrow enough.
        seconds: for one artifact, without its start; after that it ends with what it has.
        patience_seconds: how long a burst waits for the node to be idle.
        start_seconds: for the process to start, load the artifact and warm up.
        python: program that runs the process that measures.
    """

    warm_up_seconds: float = 0.2
    burst_seconds: float = 0.05
    pause_share: float = 1.0
    least_runs: int = 60
    least_bursts: int = 8
    width: float = 0.06
    seconds: float = 6.0
    patience_seconds: float = 0.5
    start_seconds: float = 120.0
    python: str = sys.executable


DEFAULTS = BenchmarkSettings()


class MeasurementFailedError(ServiceError, RuntimeError):
    """An artifact could not be measured on this device."""

    code = "probe-failed"

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(
            f"artifact {digest} could not be measured: {reason}; it may be too large for this device", digest=digest
        )


async def measure_ladder(
    ladder: Iterable[Rung],
    *,
    batch: int,
    threads: int,
    fetched: Callable[[Rung], AbstractAsyncContextManager[Path]],
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    is_busy: Callable[[], bool] = lambda: False,
    base_bytes: int | None = None,
    settings: BenchmarkSettings | None = None,
) -> list[dict[str, Any]]:
    """Measure artifacts one after the other, smallest first.

    Args:
        ladder: what to measure.
        batch: rows of one run, where the first axis of the inputs is free.
        threads: of one run.
        fetched: holds the verified file of an artifact for as long as it is needed; its errors end the measurements.
        report: given every row as soon as it is measured.
        is_busy: whether the node is answering a request now.
        base_bytes: resident memory of the node without any network; the process that measures stands in for it when
            left out.
        settings: how thoroughly; the defaults take about 5 to 15 s for each artifact.

    Returns:
        Rows of the fleet's report, in the order of measurement: `digest, batch, threads, p50_ms, p95_ms, runs,
        resident_bytes`. An artifact that cannot be measured has none, and neither have the larger ones after it.

    Raises:
        Whatever `fetched` raises. Cancelling it ends the process that measures.
    """
    rows: list[dict[str, Any]] = []
    for rung in sorted(ladder, key=lambda one: one.bytes):
        async with fetched(rung) as path:
            try:
                row = await measure_artifact(
                    path,
                    digest=rung.digest,
                    size_bytes=rung.bytes,
                    batch=batch,
                    threads=threads,
                    is_busy=is_busy,
                    base_bytes=base_bytes,
                    settings=settings,
                )
            except MeasurementFailedError as error:
                log.warning("artifact not measured", extra={"digest": rung.digest, "detail": error.message})
                return rows
        rows.append(row)
        report(row)
    return rows


async def measure_artifact(
    path: Path,
    *,
    digest: str,
    size_bytes: int,
    batch: int,
    threads: int,
    is_busy: Callable[[], bool] = lambda: False,
    base_bytes: int | None = None,
    settings: BenchmarkSettings | None = None,
) -> dict[str, Any]:
    """Measure one artifact; see `measure_ladder`.

    Args:
        path: the ONNX file, already verified.
        digest, size_bytes: of the file.
        batch, threads, is_busy, base_bytes, settings: as of `measure_ladder`.

    Raises:
        MeasurementFailedError: ONNX Runtime cannot load or run it, or the process ended or did not answer in time.
        OSError: the process cannot be started.
    """
    settings = settings or DEFAULTS
    worker = await asyncio.create_subprocess_exec(
        settings.python,
        "-m",
        "service.node.benchmark.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=LINE_BYTES_MAX,
    )
    try:
        order = {"path": str(path), "digest": digest, "bytes": size_bytes, "batch": batch, "threads": threads}
        order["warm_up_seconds"] = settings.warm_up_seconds
        ready = await _ask(worker, order, digest, settings.start_seconds)
        runs, resident = await _runs(worker, digest, settings, is_busy)
        found = estimate(runs)
        resident = max(resident, ready["resident_bytes"])
    finally:
        if worker.returncode is None:
            worker.kill()
        await worker.wait()
    if base_bytes is not None:
        resident = base_bytes + max(0, resident - ready["before_bytes"])
    log.info("artifact measured", extra={"digest": digest, "p95_ms": found.p95_ms, "runs": found.runs})
    return {
        "digest": digest,
        "batch": batch,
        "threads": threads,
        "p50_ms": found.p50_ms,
        "p95_ms": found.p95_ms,
        "runs": found.runs,
        "resident_bytes": resident,
    }


async def _runs(
    worker: asyncio.subprocess.Process, digest: str, settings: BenchmarkSettings, is_busy: Callable[[], bool]
) -> tuple[list[float], int]:
    """Milliseconds of all runs, and the memory at most."""
    milliseconds: list[float] = []
    resident = bursts = 0
    began = time.perf_counter()
    while True:
        await _wait_for_idle(is_busy, settings.patience_seconds)
        answer = await _ask(worker, {"seconds": settings.burst_seconds}, digest, settings.start_seconds)
        milliseconds += answer["milliseconds"]
        resident = max(resident, answer["resident_bytes"])
        bursts += 1
        if time.perf_counter() - began >= settings.seconds:
            return milliseconds, resident
        enough = bursts >= settings.least_bursts and len(milliseconds) >= settings.least_runs
        if enough and estimate(milliseconds).width <= settings.width:
            return milliseconds, resident
        await asyncio.sleep(settings.pause_share * settings.burst_seconds)


async def _wait_for_idle(is_busy: Callable[[], bool], patience_seconds: float) -> None:
    end = time.perf_counter() + patience_seconds
    while is_busy() and time.perf_counter() < end:
        await asyncio.sleep(0.002)


async def _ask(
    worker: asyncio.subprocess.Process, message: Mapping[str, Any], digest: str, seconds: float
) -> dict[str, Any]:
    """One line to the process, one back."""
    assert worker.stdin is not None, "started with pipes"
    assert worker.stdout is not None, "started with pipes"
    try:
        worker.stdin.write(json.dumps(message).encode() + b"\n")
        await worker.stdin.drain()
        async with asyncio.timeout(seconds):
            line = await worker.stdout.readline()
    except TimeoutError:
        raise MeasurementFailedError(digest, f"it took longer than {seconds:g} s") from None
    except ConnectionError:
        line = b""
    if not line:
        raise MeasurementFailedError(digest, f"the process that ran it ended (status {await worker.wait()})")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise MeasurementFailedError(digest, answer["error"]["detail"])
    return answer
