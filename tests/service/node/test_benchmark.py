"""Artifacts are measured in a process of their own, gently, and what cannot be measured is named."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.node.benchmark.device_info import resident_bytes
from service.node.benchmark.run import BenchmarkSettings, MeasurementFailedError, measure_artifact, measure_ladder

QUICK = BenchmarkSettings(
    warm_up_seconds=0.01, burst_seconds=0.01, least_bursts=2, least_runs=20, seconds=0.5, width=10.0
)
MIB = 1 << 20


@dataclass(frozen=True)
class File:
    digest: str
    bytes: int
    path: Path


def perceptron(path: Path, *, width: int) -> File:
    """`y = relu(x A) B` with `width` hidden numbers and 16 inputs, repeated products so that width costs time."""
    random = np.random.default_rng(0)
    weights = {"a": random.standard_normal((16, width)), "b": random.standard_normal((width, 4))}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "b"], ["y"]),
        ],
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content = bytes(model.SerializeToString())
    onnx.checker.check_model(model)
    path.write_bytes(content)
    return File("sha256:" + hashlib.sha256(content).hexdigest(), len(content), path)


def measured(file: File, *, batch: int = 1, settings: BenchmarkSettings = QUICK, **others: Any) -> dict[str, Any]:
    return asyncio.run(
        measure_artifact(
            file.path, digest=file.digest, size_bytes=file.bytes, batch=batch, threads=1, settings=settings, **others
        )
    )


@pytest.fixture
def small(tmp_path: Path) -> File:
    return perceptron(tmp_path / "small.onnx", width=8)


def test_a_row_has_what_the_report_needs(small: File) -> None:
    row = measured(small)
    assert list(row) == ["digest", "batch", "threads", "p50_ms", "p95_ms", "runs", "resident_bytes"]
    assert (row["digest"], row["batch"], row["threads"]) == (small.digest, 1, 1)
    assert 0 < row["p50_ms"] <= row["p95_ms"]
    assert row["runs"] >= QUICK.least_runs


def test_more_rows_take_longer(tmp_path: Path) -> None:
    file = perceptron(tmp_path / "wide.onnx", width=512)
    assert measured(file, batch=512)["p50_ms"] > 5 * measured(file, batch=1)["p50_ms"]


def test_memory_is_the_artifacts_own_on_top_of_the_nodes(tmp_path: Path, small: File) -> None:
    large = perceptron(tmp_path / "large.onnx", width=200_000)  # 16 MB
    base = 100 * MIB
    assert measured(large, base_bytes=base)["resident_bytes"] >= base + 0.9 * large.bytes
    whole = measured(small)["resident_bytes"]
    assert whole > 10 * MIB  # a process, ONNX Runtime and all
    assert measured(small, base_bytes=base)["resident_bytes"] < base + whole / 2


def test_what_is_no_network_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(MeasurementFailedError) as caught:
        measured(File("sha256:" + "0" * 64, 10, path))
    assert caught.value.fields["digest"] == "sha256:" + "0" * 64
    assert str(tmp_path) not in str(caught.value)


def test_an_artifact_that_takes_too_long_is_given_up_and_its_process_ended(small: File) -> None:
    before = children()
    with pytest.raises(MeasurementFailedError, match="longer than"):
        measured(small, settings=BenchmarkSettings(start_seconds=0.01))
    assert children() == before


def test_a_cancelled_measurement_leaves_no_process(small: File) -> None:
    before = children()

    async def cancelled() -> None:
        settings = BenchmarkSettings(warm_up_seconds=30.0)
        task = asyncio.create_task(
            measure_artifact(
                small.path, digest=small.digest, size_bytes=small.bytes, batch=1, threads=1, settings=settings
            )
        )
        while children() == before:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert children() == before


def test_bursts_wait_for_an_idle_node_but_not_for_ever(small: File) -> None:
    asked: list[bool] = []

    def is_busy() -> bool:
        asked.append(len(asked) < 5)
        return asked[-1]

    measured(small, is_busy=is_busy)
    assert asked[:6] == [True, True, True, True, True, False]
    row = measured(
        small, is_busy=lambda: True, settings=BenchmarkSettings(0.01, 0.01, seconds=0.3, patience_seconds=0.05)
    )
    assert row["runs"] >= 1


def test_the_event_loop_is_free_while_it_measures(small: File) -> None:
    async def ticks() -> int:
        count = 0

        async def tick() -> None:
            nonlocal count
            while True:
                await asyncio.sleep(0.01)
                count += 1

        ticking = asyncio.create_task(tick())
        await measure_artifact(
            small.path, digest=small.digest, size_bytes=small.bytes, batch=1, threads=1, settings=QUICK
        )
        ticking.cancel()
        return count

    assert asyncio.run(ticks()) >= 5


def test_a_ladder_is_measured_from_the_smallest_and_every_file_handed_back(tmp_path: Path) -> None:
    files = [perceptron(tmp_path / f"{width}.onnx", width=width) for width in (64, 8, 16)]
    events: list[tuple[str, int]] = []

    rows = asyncio.run(ladder(files, events))
    assert [row["digest"] for row in rows] == [one.digest for one in sorted(files, key=lambda one: one.bytes)]
    sizes = sorted(one.bytes for one in files)
    assert events == [(what, size) for size in sizes for what in ("fetch", "done", "report")]


def test_larger_artifacts_are_not_tried_after_one_that_fails(tmp_path: Path) -> None:
    files = [perceptron(tmp_path / f"{width}.onnx", width=width) for width in (8, 64, 128)]
    files[1].path.write_bytes(b"no network")
    events: list[tuple[str, int]] = []
    rows = asyncio.run(ladder(files, events))
    assert [row["digest"] for row in rows] == [files[0].digest]
    assert [event for event in events if event[0] == "fetch"] == [("fetch", one.bytes) for one in files[:2]]
    assert ("done", files[1].bytes) in events


async def ladder(files: list[File], events: list[tuple[str, int]]) -> list[dict[str, Any]]:
    by_digest = {one.digest: one for one in files}

    @contextlib.asynccontextmanager
    async def fetched(rung: Any) -> AsyncIterator[Path]:
        events.append(("fetch", rung.bytes))
        yield by_digest[rung.digest].path
        events.append(("done", rung.bytes))

    report: Callable[[dict[str, Any]], None] = lambda row: events.append(("report", by_digest[row["digest"]].bytes))  # noqa: E731
    return await measure_ladder(
        files, batch=1, threads=1, fetched=fetched, report=report, base_bytes=resident_bytes(), settings=QUICK
    )


def children() -> set[int]:
    """Processes whose parent is this one."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return {int(number) for number in path.read_text().split()}
