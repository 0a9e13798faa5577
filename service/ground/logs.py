"""Logs as JSON lines on stderr: one object a line, the event a short constant phrase, all that varies a field.

Modules write `log.info("artifact evicted", extra={"digest": digest})` and add no handlers; only the assembling files
call `configure_logs`, once a process.
"""

from __future__ import annotations

import datetime
import logging
import sys

import orjson

STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
"""What every log record has, and uvicorn's copy of its message in colour; all else came in as `extra`."""


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time (UTC), level, logger, event, then the fields given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline; values that JSON does not know are written as text."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD_ATTRIBUTES}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()


def configure_logs(level: str) -> None:
    """Send every log record of this process from `level` on to stderr as JSON lines, replacing handlers set before.

    Args:
        level: `debug`, `info`, `warning` or `error`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
