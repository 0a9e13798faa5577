"""The request loop of a builder process: JSON lines in, JSON lines out, one request at a time.

A request is `{"id": n, "op": name, "params": {…}}`. For each there are any number of
`{"id": n, "event": "progress", "stage": text, "fraction": 0..1}` and then one `{"id": n, "result": …}` or
`{"id": n, "error": {"code", "message", "fields"}}`. The first line, `{"event": "ready", "pid": n}`, says that requests
may come. Errors that are not ours become `builder-failed`; their traceback goes to the log only.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Protocol

import orjson

log = logging.getLogger(__name__)

# At most this many progress lines a second; the change of a stage is always reported.
PROGRESS_SECONDS = 0.05
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE


class Report(Protocol):
    """Tells the hub how far a request is."""

    def __call__(self, stage: str, fraction: float, /) -> None: ...


Handler = Callable[[Mapping[str, Any], Report], Any]


def serve(
    handlers: Mapping[str, Handler],
    *,
    requests: BinaryIO,
    responses: BinaryIO,
    known_errors: tuple[type[Exception], ...],
    abandon: Callable[[int], object] = os._exit,
) -> None:
    """Answers requests until `requests` ends.

    A thread watches `requests`, so that a process whose parent died ends at once, even in the middle of a build.

    Args:
        handlers: operation -> function of its parameters and a progress report; the result must be JSON.
        requests: lines from the hub.
        responses: lines to the hub; nothing else may write there.
        known_errors: exceptions with `code`, `message` and `fields`, carried over as they are.
        abandon: ends the process when `requests` ends; only tests pass something else.
    """
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def watch() -> None:
        for line in requests:
            lines.put(line)
        abandon(0)
        lines.put(None)

    threading.Thread(target=watch, name="requests", daemon=True).start()

    def send(message: Mapping[str, Any]) -> None:
        try:
            responses.write(orjson.dumps(message, default=str, option=_OPTIONS))
            responses.flush()
        except BrokenPipeError:
            abandon(0)

    send({"event": "ready", "pid": os.getpid()})
    while (line := lines.get()) is not None:
        send(_answer(line, handlers, known_errors, send))


def take_over_stdout() -> BinaryIO:
    """Standard output for the protocol alone: whatever else is printed, by C code too, goes to standard error."""
    sys.stdout.flush()
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return protocol


def _answer(
    line: bytes,
    handlers: Mapping[str, Handler],
    known_errors: tuple[type[Exception], ...],
    send: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any]:
    number: Any = None
    try:
        request = orjson.loads(line)
        number = request["id"]
        result = handlers[request["op"]](request["params"], _reporter(number, send))
        orjson.dumps(result, option=_OPTIONS)  # a result that is no JSON is an error of its own, not of the pipe
        return {"id": number, "result": result}
    except known_errors as error:
        fields = getattr(error, "fields", {})
        return _error(number, str(getattr(error, "code", "builder-failed")), str(error), fields)
    except MemoryError:
        log.exception("out of memory")
        return _error(number, "builder-failed", "the build needs more memory than a builder process may take", {})
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _error(number, "store-full", "the disk of the store is full", {})
        log.exception("request failed")
        return _error(number, "builder-failed", "", {})
    except Exception:
        log.exception("request failed")
        return _error(number, "builder-failed", "", {})


def _error(number: Any, code: str, message: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": number, "error": {"code": code, "message": message, "fields": dict(fields)}}


def _reporter(number: Any, send: Callable[[Mapping[str, Any]], None]) -> Report:
    last_stage: str | None = None
    last_time = 0.0

    def report(stage: str, fraction: float, /) -> None:
        nonlocal last_stage, last_time
        now = time.monotonic()
        if stage != last_stage or now - last_time >= PROGRESS_SECONDS:
            last_stage, last_time = stage, now
            send({"id": number, "event": "progress", "stage": stage, "fraction": min(1.0, max(0.0, float(fraction)))})

    return report
