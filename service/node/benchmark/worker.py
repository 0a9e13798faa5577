"""The process that runs an artifact to measure it: `python -m service.node.benchmark.worker`.

`service.node.benchmark.run` starts it. A process of its own has a memory that is all the artifact's, can be stopped at
any moment, and takes nothing down when the artifact is too large for the device. Lines of JSON on stdin and stdout:
first the order, then one line for each burst of runs; the end of stdin ends it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.ground.errors import ServiceError
from service.inference.providers import CPU
from service.inference.reference_outputs import inputs_of
from service.inference.session import Session, open_session
from service.inference.tensors import Array
from service.node.benchmark.device_info import resident_bytes

WARM_UP_RUNS = 3
# What the kernel ends first when memory runs out: this process, not the node that serves.
OUT_OF_MEMORY_SCORE = "1000"


def main() -> int:
    """Measure as ordered; returns the exit code."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE)
    order = json.loads(sys.stdin.readline())
    import onnxruntime  # noqa: F401  its own memory is not the artifact's

    before = resident_bytes()
    try:
        session = open_session(
            Path(order["path"]),
            digest=order["digest"],
            size_bytes=order["bytes"],
            threads=order["threads"],
            providers=(CPU,),
        )
        inputs = inputs_of(session.inputs, seed="00", rows=order["batch"])
        warm_up(session, inputs, seconds=order["warm_up_seconds"])
    except ServiceError as error:
        _say({"error": {"code": error.code, "detail": error.message}})
        return 1
    _say({"before_bytes": before, "resident_bytes": resident_bytes()})
    for line in sys.stdin:
        command: Mapping[str, Any] = json.loads(line)
        milliseconds = burst(session, inputs, seconds=command["seconds"])
        _say({"milliseconds": milliseconds, "resident_bytes": resident_bytes()})
    return 0


def warm_up(session: Session, inputs: Mapping[str, Array], *, seconds: float) -> None:
    """Run until everything is allocated and the processor is awake: `WARM_UP_RUNS` at least, and so many seconds."""
    end = time.perf_counter() + seconds
    runs = 0
    while runs < WARM_UP_RUNS or time.perf_counter() < end:
        session.run(inputs)
        runs += 1


def burst(session: Session, inputs: Mapping[str, Array], *, seconds: float) -> list[float]:
    """Runs one after the other for so many seconds, at least one: milliseconds of every run, none left out."""
    milliseconds: list[float] = []
    end = time.perf_counter() + seconds
    while True:
        began = time.perf_counter()
        session.run(inputs)
        now = time.perf_counter()
        milliseconds.append(1000.0 * (now - began))
        if now >= end:
            return milliseconds


def _say(message: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + os.linesep)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
