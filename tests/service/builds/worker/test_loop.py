"""The request loop: answers, progress, errors without internals, and its end."""

from __future__ import annotations

import errno
import io
import logging
import threading
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from service.builds.worker.loop import Report, serve


class OurError(Exception):
    """An error that is carried over."""

    code = "ours"

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.fields = fields


def stages(params: Mapping[str, Any], report: Report) -> dict[str, Any]:
    for stage, fraction in (("plan", -1.0), ("discretize", 0.5), ("discretize", 0.500001), ("assemble", 7.0)):
        report(stage, fraction)
    return {}


def raises(error: BaseException) -> Any:
    def handler(params: Mapping[str, Any], report: Report) -> Any:
        raise error

    return handler


HANDLERS = {
    "echo": lambda params, report: dict(params),
    "stages": stages,
    "ours": raises(OurError("too small", minimum=5, path=object)),
    "bug": raises(RuntimeError("secret")),
    "memory": raises(MemoryError()),
    "full": raises(OSError(errno.ENOSPC, "No space left on device")),
    "absent-file": raises(FileNotFoundError(errno.ENOENT, "secret")),
    "no-json": lambda params, report: {"value": object()},
}


def converse(*lines: bytes) -> list[dict[str, Any]]:
    """What the loop writes for these lines."""
    responses = io.BytesIO()
    serve(
        HANDLERS,
        requests=io.BytesIO(b"".join(line + b"\n" for line in lines)),
        responses=responses,
        known_errors=(OurError,),
        abandon=lambda status: None,
    )
    messages = [orjson.loads(line) for line in responses.getvalue().splitlines()]
    assert messages[0]["event"] == "ready"
    return messages[1:]


def ask(operation: str, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return converse(orjson.dumps({"id": 7, "op": operation, "params": params or {}}))


def test_result_carries_the_id_of_its_request() -> None:
    lines = [orjson.dumps({"id": number, "op": "echo", "params": {"n": number * number}}) for number in range(3)]
    assert converse(*lines) == [{"id": number, "result": {"n": number * number}} for number in range(3)]


def test_progress_is_bounded_and_repeated_stages_are_thinned() -> None:
    *events, last = ask("stages")
    assert [(event["stage"], event["fraction"]) for event in events] == [
        ("plan", 0.0),
        ("discretize", 0.5),
        ("assemble", 1.0),
    ]
    assert last == {"id": 7, "result": {}}


def test_our_errors_keep_code_message_and_fields() -> None:
    (answer,) = ask("ours")
    assert answer["error"]["code"] == "ours"
    assert answer["error"]["message"] == "too small"
    assert answer["error"]["fields"]["minimum"] == 5


@pytest.mark.parametrize("operation", ["bug", "absent-file", "no-json", "no such operation"])
def test_other_errors_show_nothing_and_are_logged(operation: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        (answer,) = ask(operation)
    assert answer == {"id": 7, "error": {"code": "builder-failed", "message": "", "fields": {}}}
    assert caplog.records[-1].exc_info is not None


def test_want_of_memory_and_of_disk_are_told() -> None:
    (memory,) = ask("memory")
    assert memory["error"]["code"] == "builder-failed"
    assert "memory" in memory["error"]["message"]
    (full,) = ask("full")
    assert full["error"]["code"] == "store-full"


@pytest.mark.parametrize("line", [b"", b"no json", b"[1]", b"{}", b'{"id": 1}', b"\xff\xfe", b"null"])
def test_malformed_line_is_answered_and_the_loop_goes_on(line: bytes) -> None:
    answers = converse(line, orjson.dumps({"id": 8, "op": "echo", "params": {}}))
    assert answers[0]["error"]["code"] == "builder-failed"
    assert answers[1] == {"id": 8, "result": {}}


def test_end_of_requests_ends_a_build_that_runs() -> None:
    ended = threading.Event()
    status: list[int] = []

    def abandon(code: int) -> None:
        status.append(code)
        ended.set()

    serve(
        {"wait": lambda params, report: ended.wait(10)},  # only the end of the requests lets it go on
        requests=io.BytesIO(b'{"id": 1, "op": "wait", "params": {}}\n'),
        responses=io.BytesIO(),
        known_errors=(),
        abandon=abandon,
    )
    assert status == [0]


def test_closed_answer_pipe_ends_the_process() -> None:
    class Closed(io.BytesIO):
        def flush(self) -> None:
            raise BrokenPipeError

    status: list[int] = []
    serve(
        HANDLERS,
        requests=io.BytesIO(b""),
        responses=Closed(),
        known_errors=(),
        abandon=lambda code: status.append(code),
    )
    assert status
