"""What benchmarks say while they run and write when they are done."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from inn_core.files import written_aside
from inn_core.progress import Progress


def say(message: str) -> None:
    """One line to the terminal."""
    print(message, file=sys.stderr, flush=True)


def sayer(name: str) -> Progress:
    """Says every stage, and every tenth of the whole."""
    last = ""

    def report(stage: str, share: float) -> None:
        nonlocal last
        line = f"{name}: {stage} ({10 * int(10 * share)} %)"
        if line != last:
            last = line
            say(line)

    return report


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    with written_aside(path) as writer:
        writer.write(text.encode())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table with a head."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
