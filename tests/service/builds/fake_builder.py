"""A builder process whose engine builds nothing real: the loop and the pipe are those of the service.

Plans round the budget down to hundreds, so that several targets share a build key; an artifact is `value` bytes that
depend on the build key alone. Some values make it misbehave (the constants below). Every export is noted, with the
process id, in the file `builds.log` of the store's folder; while `hold` is there and `release` is not, builds wait.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.builds.worker.loop import Report, serve, take_over_stdout

CRASH_ONCE = 1_300
CRASH_ALWAYS = 1_400
HANG = 1_500
BREAK = 1_600
DISK_FULL = 1_700
NOISE = 1_800
WRONG_DIGEST = 1_900
MINIMUM = 1_000
MAXIMUM = 100_000


class FakeError(Exception):
    """Like an error of inn_core."""

    def __init__(self, code: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fields = fields


def build_key(params: Mapping[str, Any], size: int) -> str:
    """Key of a build of `size` bytes."""
    text = f"{params['digest']} {size} {params['quality']} {params['multiple_of']}"
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def content(key: str, size: int) -> bytes:
    """The bytes of an artifact."""
    return (key.encode() * (size // len(key) + 1))[:size]


def size_of(params: Mapping[str, Any]) -> int:
    """Size that the budget leads to."""
    if params["value"] < MINIMUM:
        raise FakeError(
            "budget-unreachable", "below the smallest size", minimum=MINIMUM, maximum=MAXIMUM, unit=params["unit"]
        )
    return min(int(params["value"]), MAXIMUM) // 100 * 100


def describe(params: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """A checkpoint is valid when it starts with `inn`."""
    if not Path(params["checkpoint"]).read_bytes().startswith(b"inn"):
        raise FakeError("invalid-checkpoint", "it does not start with 'inn'")
    return {"name": "fake", "feasible": {"params": {"min": MINIMUM, "max": MAXIMUM}}}


def plan(params: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """A plan of the rounded size."""
    size = size_of(params)
    return {
        "build_key": build_key(params, size),
        "bytes": size,
        "manifest": {
            "budget": {"unit": params["unit"], "value": params["value"]},
            "feasible": {"min": MINIMUM, "max": MAXIMUM},
            "multiple_of": params["multiple_of"],
        },
    }


def export(params: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Writes the artifact, or misbehaves as the value says."""
    size, path = size_of(params), Path(params["path"])
    beside = Path(params["checkpoint"]).parents[2]
    with (beside / "builds.log").open("a") as log:
        log.write(f"{os.getpid()} {params['value']}\n")
    report("discretize", 0.25)
    path.with_suffix(".part").write_bytes(b"half")
    if (size == CRASH_ONCE and not (beside / "crashed").exists()) or size == CRASH_ALWAYS:
        (beside / "crashed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if size == BREAK:
        raise RuntimeError("secret detail of the inside")
    if size == DISK_FULL:
        raise OSError(28, "No space left on device")
    if size == NOISE:
        print("a stray line on standard output")
        os.system("echo a stray line of a child")
    while size == HANG or ((beside / "hold").exists() and not (beside / "release").exists()):
        time.sleep(0.005)
    report("assemble", 0.75)
    data = content(build_key(params, size), size)
    path.write_bytes(data)
    digest = f"sha256:{hashlib.sha256(b'other' if size == WRONG_DIGEST else data).hexdigest()}"
    return {
        "model": "fake",
        "digest": digest,
        "checkpoint": params["digest"],
        "params": size,
        "bytes": size,
        "budget": {"unit": params["unit"], "value": params["value"]},
        "quality": params["quality"],
        "seconds": {"discretize": 0.25},
    }


def curve(params: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """A curve of the wanted points."""
    report("measure", 0.5)
    return {"full": {"params": MAXIMUM}, "points": [{"params": size} for size in params["params"] or [MINIMUM]]}


if __name__ == "__main__":
    serve(
        {
            "ping": lambda params, report: {"pid": os.getpid(), **params},
            "warm": lambda params, report: {},
            "describe": describe,
            "plan": plan,
            "export": export,
            "curve": curve,
            "not-json": lambda params, report: {"value": object()},
        },
        requests=sys.stdin.buffer,
        responses=take_over_stdout(),
        known_errors=(FakeError,),
    )
