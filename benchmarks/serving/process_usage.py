"""What another process has used: processor seconds and memory, from Linux's `/proc`."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """A reading of one process, without its children.

    Attributes:
        processor_seconds: user and system time since it started, in steps of a clock tick (10 ms).
        resident_bytes: memory that is in RAM now.
        peak_bytes: the most it had since it started or since `forget_peak`.
    """

    processor_seconds: float
    resident_bytes: int
    peak_bytes: int


def usage_of(process_id: int) -> Usage:
    """Read what a process has used."""
    fields = (PROC / str(process_id) / "stat").read_text().rpartition(")")[2].split()
    status = (PROC / str(process_id) / "status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    resident = int((PROC / str(process_id) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Usage((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), resident, max(peak, resident))


def forget_peak(process_id: int) -> None:
    """Let the peak begin anew; where the kernel does not allow it, the peak stays that since the start."""
    with contextlib.suppress(OSError):
        (PROC / str(process_id) / "clear_refs").write_text("5")


def child_with(argument: str) -> int:
    """Id of the child of this process that has `argument` on its command line.

    Raises:
        LookupError: there is none.
    """
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and argument in (folder / "cmdline").read_bytes().decode().split("\0"):
                return int(folder.name)
    raise LookupError(f"no child of this process has '{argument}' on its command line")
