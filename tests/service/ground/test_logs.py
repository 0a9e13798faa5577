"""Logs are JSON lines with what varies as fields."""

import json
import logging
import sys
from datetime import datetime

import pytest

from service.ground.logs import JsonLines, configure_logs


def formatted(record: logging.LogRecord) -> dict[str, object]:
    text = JsonLines().format(record)
    assert "\n" not in text
    return dict(json.loads(text))


def test_fields_given_as_extra_become_members() -> None:
    logger = logging.getLogger("service.test")
    record = logger.makeRecord(
        "service.test",
        logging.INFO,
        "x.py",
        1,
        "artifact %s",
        ("evicted",),
        None,
        extra={"digest": "sha256:00", "size_bytes": 7},
    )
    line = formatted(record)
    assert line | {"time": ""} == {
        "time": "",
        "level": "info",
        "logger": "service.test",
        "event": "artifact evicted",
        "digest": "sha256:00",
        "size_bytes": 7,
    }
    assert datetime.fromisoformat(str(line["time"])).timestamp() == pytest.approx(record.created, abs=1e-3)


def test_values_that_json_does_not_know_are_written_as_text() -> None:
    record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "m", "path": ValueError("odd")})
    assert formatted(record)["path"] == "odd"


def test_a_traceback_stays_on_one_line() -> None:
    try:
        raise RuntimeError("broken\nin two lines")
    except RuntimeError:
        record = logging.makeLogRecord({"name": "n", "levelname": "ERROR", "msg": "m", "exc_info": sys.exc_info()})
    assert "RuntimeError: broken" in str(formatted(record)["exception"])


def test_configured_logs_go_to_stderr_from_the_level_on(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure_logs("warning")
        logging.getLogger("service.test").info("not shown")
        logging.getLogger("service.test").warning("shown", extra={"model": "m"})
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [json.loads(line)["event"] for line in captured.err.splitlines()] == ["shown"]
