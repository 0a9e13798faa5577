"""Limits of a builder process: its threads and its memory."""

from __future__ import annotations

import os
import resource
from pathlib import Path

_PROCESSORS = Path("/sys/devices/system/cpu")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def chosen_threads(threads: int) -> int:
    """How many threads a builder process uses: the number that its settings say, or one for each processor core.

    The planner and the builders of a hub agree on it, since it decides the bytes of an artifact: sums are split over
    threads, and rounding with them.

    Args:
        threads: of the settings; 0 counts the cores that this process may run on, two hardware threads of a core once.
    """
    if threads:
        return threads
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    processors = os.sched_getaffinity(0)
    siblings = {_siblings(processor) for processor in processors}
    return max(1, len(siblings))


def limit_threads(threads: int) -> None:
    """Tells the numeric libraries how many threads to use; only has an effect before they are loaded.

    Args:
        threads: at least 1, see `chosen_threads`.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not spin: sessions share the cores
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(threads)


def limit_memory(memory_bytes: int | None) -> None:
    """Lets allocations beyond a limit fail, so that one build cannot take the whole machine down.

    The data segment is limited (private writable memory), not the address space: mapped checkpoints and the
    libraries of a GPU need much address space and little memory.

    Args:
        memory_bytes: not limited when None.
    """
    if memory_bytes is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _siblings(processor: int) -> str:
    """The processors that share a core, as the kernel lists them; the processor alone where it does not say."""
    try:
        return (_PROCESSORS / f"cpu{processor}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(processor)
