"""Limits of a builder process: its threads and its memory."""

from __future__ import annotations

import os
import resource

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def limit_threads(threads: int) -> None:
    """Tells the numeric libraries how many threads to use; only has an effect before they are loaded.

    Args:
        threads: 0 leaves the choice to them.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not spin: sessions share the cores
    if threads:
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
