"""What a node measures about itself: latencies and errors of a bounded number of requests, memory, what it runs on."""

from __future__ import annotations

import asyncio
import math
import os
import platform
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WINDOW_REQUESTS = 1024


class Window:
    """Requests to one network since it took over: counts of all, latencies of the last `WINDOW_REQUESTS`.

    `changed` is set at every request; whoever waits for it clears it. Lives on one event loop.
    """

    def __init__(self, size: int = WINDOW_REQUESTS) -> None:
        self.requests = 0
        self.errors = 0
        self.changed = asyncio.Event()
        self._seconds: deque[float] = deque(maxlen=size)

    def answered(self, seconds: float) -> None:
        """A request was answered; `seconds` is the time it waited for and was run by the network."""
        self.requests += 1
        self._seconds.append(seconds)
        self.changed.set()

    def failed(self) -> None:
        """A request failed for a reason that is not the client's."""
        self.requests += 1
        self.errors += 1
        self.changed.set()

    @property
    def error_share(self) -> float:
        """Failed requests of all, 0 when there were none."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def measured(self) -> int:
        """How many latencies the percentiles are of."""
        return len(self._seconds)

    def percentile_ms(self, percentile: float) -> float | None:
        """The latency, in milliseconds, that so many percent of the last requests did not exceed; None without any."""
        return percentile_of([1000.0 * seconds for seconds in self._seconds], percentile)


def percentile_of(values: Sequence[float], percentile: float) -> float | None:
    """The smallest value that at least `percentile` percent of all do not exceed (nearest rank); None of nothing."""
    if not values:
        return None
    rank = max(1, math.ceil(percentile / 100.0 * len(values)))
    return sorted(values)[rank - 1]


def resident_bytes() -> int:
    """Memory of this process that is in RAM now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):  # not Linux: the most it ever had is the best there is
        import resource
        import sys

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def available_cores() -> int:
    """Processor cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def capability(providers: Sequence[str]) -> dict[str, Any]:
    """What this device has: `{"cores", "memory_bytes", "onnxruntime", "providers", "machine"}`."""
    import onnxruntime

    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _control_group_limit()
    return {
        "cores": available_cores(),
        "memory_bytes": memory_bytes if limit is None else min(memory_bytes, limit),
        "onnxruntime": onnxruntime.__version__,
        "providers": list(providers),
        "machine": platform.machine(),
    }


def _control_group_limit() -> int | None:
    """Memory that the container may take, when there is a limit."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None
