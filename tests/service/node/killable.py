"""Nodes in processes of their own that kill themselves, as a power cut would, at a chosen moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess

import uvicorn

from service.node import status
from service.node.app import create_app
from service.node.settings import EdgeSettings

# Processes are forked from one that has imported everything and has no threads: they start in a moment.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "service.node.agent.supervise", "onnxruntime"])


def die_in_state(settings: EdgeSettings, state: str) -> None:
    """Run a node that kills itself at the moment it enters a state."""
    enter = status.Status.enter

    def deadly(self: status.Status, entered: str, **options: object) -> None:
        enter(self, entered, **options)  # type: ignore[arg-type]
        if entered == state:
            os.kill(os.getpid(), signal.SIGKILL)

    status.Status.enter = deadly  # type: ignore[method-assign,assignment]
    _run(settings)


def die_at_write(settings: EdgeSettings, number: int, before: bool) -> None:
    """Run a node that kills itself just before or after it replaces a file for the so-manieth time."""
    replace = os.replace
    left = number

    def deadly(source: str, target: str, **options: object) -> None:
        nonlocal left
        left -= 1
        if left == 0 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = deadly  # type: ignore[assignment]
    _run(settings)


def _run(settings: EdgeSettings) -> None:
    uvicorn.run(create_app(settings), host="127.0.0.1", port=0, log_level="critical", access_log=False)


def run_until_killed(target: object, *arguments: object, seconds: float = 30.0) -> int | None:
    """Run one of the above in a process; returns its exit code, None when it was still alive and was ended here."""
    process: BaseProcess = CONTEXT.Process(target=target, args=arguments, daemon=True)  # type: ignore[attr-defined]
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode
