"""One builder process and the pipe to it: spawned when needed, restarted when it dies, killed when a request overruns.

Requests to one client run one after the other. A request that is cancelled or times out kills the process, since the
process cannot be interrupted otherwise; the next request starts a fresh one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from service.ground.errors import (
    BuilderDiedError,
    BuilderFailedError,
    BuildTimeoutError,
    CoreError,
    NotReadyError,
    StoreFullError,
)
from service.ground.metrics import counter
from service.ground.settings import BuilderSettings

log = logging.getLogger(__name__)

LINE_LIMIT_BYTES = 64 << 20
START_TIMEOUT_SECONDS = 180.0
START_ATTEMPTS = 3
BACKOFF_SECONDS = 0.2
CLOSE_SECONDS = 2.0

_RESTARTS = counter("inn_builder_restarts_total", "Builder processes that died or were killed.")

Event = Callable[[str, float], None]


def builder_command(settings: BuilderSettings) -> list[str]:
    """The command line that starts a builder process with these settings."""
    return [sys.executable, "-m", "service.builds.worker", "--settings", settings.model_dump_json()]


class BuilderClient:
    """A builder process, as the hub sees it. Belongs to one event loop.

    Args:
        command: how to start the process; see `builder_command`.
        name: for the log.
        store: folder on the disk that builds write to, for the figures of `store-full`.
        sleep: waits between failed starts.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str = "builder",
        store: Path = Path("."),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._command = list(command)
        self._name = name
        self._store = store
        self._sleep = sleep
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._numbers = itertools.count(1)
        self._starts = 0
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the living process, if there is one."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Starts the process when it does not live, and waits until it is ready.

        Raises:
            BuilderDiedError: it ended before it was ready, several times.
            NotReadyError: the client was closed.
        """
        async with self._lock:
            await self._ensure()

    async def call(
        self,
        operation: str,
        params: Mapping[str, Any],
        *,
        timeout_seconds: float,
        on_progress: Event = lambda stage, fraction: None,
        attempts: int = 1,
    ) -> Any:
        """Runs one operation in the process and returns its result.

        Args:
            operation: name of a handler of the builder.
            params: JSON object for it.
            timeout_seconds: how long it may run, not counting the start of the process and requests before it.
            on_progress: told the stage and the fraction done; must not raise.
            attempts: how often to try when the process dies; more than 1 only for operations that leave nothing behind.

        Raises:
            CoreError: an error of inn_core, by its code.
            BuildTimeoutError: it took too long; the process was killed.
            BuilderDiedError: the process ended; the request may be repeated.
            BuilderFailedError: the builder met an error it has no name for.
            StoreFullError: the builder found the disk full.
            NotReadyError: the client was closed.
        """
        for _ in range(attempts - 1):
            try:
                return await self._call_once(operation, params, timeout_seconds, on_progress)
            except BuilderDiedError:
                log.warning("request repeated", extra={"operation": operation})
        return await self._call_once(operation, params, timeout_seconds, on_progress)

    async def close(self) -> None:
        """Ends the process; a request that is running fails."""
        self._closed = True
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await process.wait()
        except TimeoutError:
            pass
        await self._kill()

    async def _call_once(
        self, operation: str, params: Mapping[str, Any], timeout_seconds: float, on_progress: Event
    ) -> Any:
        async with self._lock:
            process = await self._ensure()
            try:
                async with asyncio.timeout(timeout_seconds):
                    answer = await self._exchange(process, operation, params, on_progress)
            except TimeoutError:
                await self._kill()
                log.error("builder timed out", extra={"operation": operation, "timeout_seconds": timeout_seconds})
                raise BuildTimeoutError(f"'{operation}'", timeout_seconds) from None
            except BaseException:
                await self._kill()
                raise
        if "error" in answer:
            raise self._translated(answer["error"])
        return answer["result"]

    async def _exchange(
        self, process: asyncio.subprocess.Process, operation: str, params: Mapping[str, Any], on_progress: Event
    ) -> dict[str, Any]:
        assert process.stdin is not None
        number = next(self._numbers)
        try:
            process.stdin.write(orjson.dumps({"id": number, "op": operation, "params": params}) + b"\n")
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise BuilderDiedError(operation, await process.wait()) from None
        while True:
            message = await self._read(process)
            if message is None:
                status = await process.wait()
                log.error("builder died", extra={"operation": operation, "status": status})
                raise BuilderDiedError(operation, status)
            if message.get("id") != number:
                continue
            if message.get("event") == "progress":
                on_progress(str(message["stage"]), float(message["fraction"]))
            elif "event" not in message:
                return message

    async def _ensure(self) -> asyncio.subprocess.Process:
        """The living process, started when there is none; needs the lock."""
        for attempt in range(START_ATTEMPTS):
            if self._closed:
                raise NotReadyError("the hub is stopping")
            if self._process is not None and self._process.returncode is None:
                return self._process
            await self._kill()
            if attempt:
                await self._sleep(BACKOFF_SECONDS * 4 ** (attempt - 1))
            process = await self._spawn()
            try:
                async with asyncio.timeout(START_TIMEOUT_SECONDS):
                    ready = await self._read(process)
            except BaseException:
                await self._kill()
                raise
            if ready is not None:
                log.info("builder ready", extra={"builder": self._name, "builder_pid": process.pid})
                return process
            log.error("builder did not start", extra={"builder": self._name, "status": await process.wait()})
        raise BuilderDiedError("start", self._process.returncode if self._process is not None else None)

    async def _spawn(self) -> asyncio.subprocess.Process:
        if self._starts:
            _RESTARTS.inc()
        self._starts += 1
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT_BYTES,
            start_new_session=True,  # Ctrl-C in the hub's terminal is for the hub, which ends its builders itself
        )
        return self._process

    async def _read(self, process: asyncio.subprocess.Process) -> dict[str, Any] | None:
        """The next message, None when the process closed the pipe or wrote what is none."""
        assert process.stdout is not None
        try:
            line = await process.stdout.readline()
            message = orjson.loads(line) if line.endswith(b"\n") else None
        except (ValueError, ConnectionResetError):  # a line over the limit, or no JSON
            message = None
        if message is None:
            _kill_group(process)
        return message if isinstance(message, dict) else None

    async def _kill(self) -> None:
        """Ends the process, if there is one, and waits until it is gone."""
        process = self._process
        if process is None:
            return
        _kill_group(process)
        if process.stdin is not None:
            process.stdin.close()
        await asyncio.shield(process.wait())
        if self._process is process:
            self._process = None

    def _translated(self, error: Mapping[str, Any]) -> Exception:
        code, message, fields = str(error["code"]), str(error["message"]), dict(error["fields"])
        if code == StoreFullError.code:
            usage = shutil.disk_usage(self._store)
            return StoreFullError(needed_bytes=0, capacity_bytes=usage.total, free_bytes=usage.free)
        if code == BuilderFailedError.code:
            return BuilderFailedError(message) if message else BuilderFailedError()
        return CoreError(code, message, fields)


def _kill_group(process: asyncio.subprocess.Process) -> None:
    """Kills the process and what it may have started; it leads a process group of its own."""
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
