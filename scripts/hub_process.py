"""A hub in a child process, on a free port, for as long as a block runs: for the demo, benchmarks and tests."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

START_SECONDS = 120.0
"""A cold disk and a first import of the numeric libraries are slow; a hub that needs longer is stuck."""

STOP_SECONDS = 30.0


class HubError(RuntimeError):
    """The hub did not start."""


@contextlib.contextmanager
def running_hub(
    store: Path,
    *,
    imports: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    log: IO[bytes] | None = None,
) -> Iterator[str]:
    """Start `inn serve` and stop it again, gracefully, when the block ends.

    Args:
        store: its folder.
        imports: checkpoints to serve; the demo's when empty.
        environment: settings (`INN_…`) beside those of this process.
        log: where its log goes; this process's stderr when left out.

    Returns:
        Its address, such as `http://127.0.0.1:43211`.

    Raises:
        HubError: it ended or said nothing for `START_SECONDS`.
    """
    command = [
        sys.executable,
        "-m",
        "service.cli",
        "serve",
        "--store",
        str(store),
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    for checkpoint in imports:
        command += ["--import", str(checkpoint)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, **(environment or {})},
        start_new_session=True,  # Ctrl-C in the terminal is for this process, which stops the hub itself
    )
    try:
        yield _first_line(process)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _first_line(process: subprocess.Popen[bytes]) -> str:
    lines: queue.Queue[bytes] = queue.Queue()
    stream = process.stdout
    assert stream is not None
    threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True).start()
    try:
        line = lines.get(timeout=START_SECONDS)
    except queue.Empty:
        raise HubError(f"the hub said nothing for {START_SECONDS:g} s") from None
    if not line:
        raise HubError(f"the hub ended with exit code {process.wait()}")
    return line.decode().strip()
