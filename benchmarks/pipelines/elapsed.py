"""Seconds of a training that may be stopped and gone on with: kept beside its state, so that they add up."""

from __future__ import annotations

import time
from pathlib import Path

from inn_core.files import written_aside
from inn_core.progress import Progress

SAVE_SECONDS = 30.0


class Elapsed:
    """The time that a training took so far, over all its processes.

    Work that was lost between the last saved state and a stop is counted, too.

    Args:
        state_path: the state of the training; without one on the disk the time begins at zero.
    """

    def __init__(self, state_path: Path) -> None:
        self._record = state_path.with_name(f"{state_path.name}.seconds")
        is_known = state_path.is_file() and self._record.is_file()
        self._before = float(self._record.read_text()) if is_known else 0.0
        self._started = self._saved_at = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return self._before + time.perf_counter() - self._started

    def noting(self, progress: Progress) -> Progress:
        """A progress that also notes the seconds, now and then and at the end."""

        def report(stage: str, share: float) -> None:
            progress(stage, share)
            now = time.perf_counter()
            if share >= 1.0 or now - self._saved_at > SAVE_SECONDS:
                self._saved_at = now
                with written_aside(self._record) as writer:
                    writer.write(f"{self.seconds:.3f}\n".encode())

        return report
