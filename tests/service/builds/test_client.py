"""The builder process as the hub sees it: started, restarted, timed out, closed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.builds.worker_process import START_ATTEMPTS, BuilderClient, builder_command
from service.ground.errors import BuilderDiedError, BuilderFailedError, BuildTimeoutError, CoreError, NotReadyError
from service.ground.settings import BuilderSettings
from tests.service.builds import fake_builder
from tests.service.builds.hub import FAKE_COMMAND
from tests.service.counted import Counted


@asynccontextmanager
async def fake_client(command: list[str] | None = None, **options: Any) -> AsyncIterator[BuilderClient]:
    client = BuilderClient(command or FAKE_COMMAND, **options)
    try:
        yield client
    finally:
        await client.close()


def params(folder: Path, value: int) -> dict[str, Any]:
    checkpoint = folder / "checkpoints" / "ab" / "checkpoint.inn"
    return {
        "checkpoint": str(checkpoint),
        "digest": "sha256:" + "0" * 64,
        "unit": "params",
        "value": value,
        "quality": "refined",
        "multiple_of": 1,
        "path": str(folder / "artifact.onnx"),
    }


async def ping(client: BuilderClient) -> int:
    return int((await client.call("ping", {}, timeout_seconds=20))["pid"])


def test_process_is_kept_between_requests() -> None:
    async def scenario() -> None:
        async with fake_client() as client:
            assert client.pid is None
            first = await ping(client)
            assert first == client.pid != os.getpid()
            assert await ping(client) == first

    asyncio.run(scenario())


def test_concurrent_requests_get_their_own_answers() -> None:
    async def scenario() -> None:
        async with fake_client() as client:
            answers = await asyncio.gather(
                *(client.call("ping", {"number": number}, timeout_seconds=20) for number in range(20))
            )
            assert [answer["number"] for answer in answers] == list(range(20))

    asyncio.run(scenario())


def test_progress_is_passed_on_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        seen: list[tuple[str, float]] = []
        async with fake_client() as client:
            await client.call(
                "export",
                params(tmp_path, 5_000),
                timeout_seconds=20,
                on_progress=lambda stage, fraction: seen.append((stage, fraction)),
            )
        assert seen == [("discretize", 0.25), ("assemble", 0.75)]

    asyncio.run(scenario())


def test_prints_of_the_builder_do_not_disturb_the_pipe(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fake_client() as client:
            manifest = await client.call("export", params(tmp_path, fake_builder.NOISE), timeout_seconds=20)
            assert manifest["params"] == fake_builder.NOISE

    asyncio.run(scenario())


def test_process_that_dies_is_reported_and_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        counted = Counted()
        async with fake_client() as client:
            first = await ping(client)
            request = params(tmp_path, fake_builder.HANG)
            waiting = asyncio.create_task(client.call("export", request, timeout_seconds=20))
            while not (tmp_path / "builds.log").exists():
                await asyncio.sleep(0.01)
            os.kill(first, signal.SIGKILL)
            with pytest.raises(BuilderDiedError):
                await waiting
            assert await ping(client) != first
            assert counted("inn_builder_restarts_total") == 1

    asyncio.run(scenario())


def test_attempts_hide_one_death(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fake_client() as client:
            request = params(tmp_path, fake_builder.CRASH_ONCE)
            manifest = await client.call("export", request, timeout_seconds=20, attempts=2)
            assert manifest["params"] == fake_builder.CRASH_ONCE
            with pytest.raises(BuilderDiedError):
                await client.call("export", params(tmp_path, fake_builder.CRASH_ALWAYS), timeout_seconds=20, attempts=2)

    asyncio.run(scenario())


def test_request_over_its_time_kills_the_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fake_client() as client:
            first = await ping(client)
            with pytest.raises(BuildTimeoutError) as caught:
                await client.call("export", params(tmp_path, fake_builder.HANG), timeout_seconds=0.3)
            assert caught.value.fields == {"timeout_seconds": 0.3}
            with pytest.raises(ProcessLookupError):
                os.kill(first, 0)
            assert await ping(client) != first

    asyncio.run(scenario())


def test_cancelled_request_kills_the_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fake_client() as client:
            first = await ping(client)
            task = asyncio.create_task(client.call("export", params(tmp_path, fake_builder.HANG), timeout_seconds=20))
            while not (tmp_path / "builds.log").exists():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(ProcessLookupError):
                os.kill(first, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("operation", ["absent", "not-json"])
def test_faulty_operation_is_a_builder_failure(operation: str) -> None:
    async def scenario() -> None:
        async with fake_client() as client:
            with pytest.raises(BuilderFailedError):
                await client.call(operation, {}, timeout_seconds=20)
            await ping(client)

    asyncio.run(scenario())


def test_error_of_the_engine_keeps_code_message_and_fields(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fake_client() as client:
            with pytest.raises(CoreError) as caught:
                await client.call("plan", params(tmp_path, 1), timeout_seconds=20)
            assert (caught.value.code, caught.value.message) == ("budget-unreachable", "below the smallest size")
            assert caught.value.fields["minimum"] == fake_builder.MINIMUM

    asyncio.run(scenario())


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "print('no json')", "print('[1]')", "print('x' * 10, end='')"])
def test_process_that_does_not_start_is_tried_with_growing_pauses(code: str) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def scenario() -> None:
        async with fake_client([sys.executable, "-c", code], sleep=sleep) as client:
            with pytest.raises(BuilderDiedError):
                await client.start()

    asyncio.run(scenario())
    assert len(pauses) == START_ATTEMPTS - 1
    assert pauses == sorted(pauses)


def test_killed_hub_leaves_no_builder(tmp_path: Path) -> None:
    hub = (
        "import asyncio, sys; from service.builds.worker_process import BuilderClient\n"
        f"client = BuilderClient({FAKE_COMMAND!r})\n"
        f"asyncio.run(client.call('export', {params(tmp_path, fake_builder.HANG)!r}, timeout_seconds=60))"
    )
    parent = subprocess.Popen([sys.executable, "-c", hub])
    try:
        while not (tmp_path / "builds.log").exists() or not (tmp_path / "builds.log").read_text():
            time.sleep(0.01)
    finally:
        parent.kill()
        parent.wait()
    builder = int((tmp_path / "builds.log").read_text().split()[0])
    deadline = time.monotonic() + 20
    while is_running(builder):
        assert time.monotonic() < deadline, "the builder outlived its hub"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_closed_client_takes_no_requests() -> None:
    async def scenario() -> None:
        client = BuilderClient(FAKE_COMMAND)
        await ping(client)
        pid = client.pid
        assert pid is not None
        await client.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(NotReadyError):
            await client.start()
        await client.close()

    asyncio.run(scenario())


def test_command_carries_the_settings() -> None:
    settings = BuilderSettings(device="cpu", threads=3, memory_bytes=1 << 30, open_checkpoints=1, log_level="error")
    command = builder_command(settings)
    assert command[:3] == [sys.executable, "-m", "service.builds.worker"]
    assert BuilderSettings.model_validate_json(command[-1]) == settings
