"""What the commands of `inn` share on a terminal: errors with their code, progress on stderr, tables on stdout.

Results go to stdout and nothing else does, so that `inn export … --json | jq` works; progress, notes and errors go to
stderr. On a terminal progress is a bar; in a pipe or a log it is one plain line a step.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.ground.errors import ServiceError

PLAIN_STEP = 0.1
"""Share of the whole after which progress prints another plain line within one stage."""

Report = Callable[[str, float], None]
"""Stage name and finished share of the whole, 0 to 1."""


class CommandError(Exception):
    """Something outside the command line stops a command: a missing file, folder or extra.

    Attributes:
        code: fixed kebab-case name, printed as `error[code]`.
        message: one sentence with the thing, the value found and the way out.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    """Print our own errors as `error[code]: message` on stderr and leave with exit code 1.

    Errors of the operating system (no space, no permission) count as ours, with the code `io-error`. A stop from the
    keyboard leaves with 130. Everything else is a defect and keeps its traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        print_error("interrupted", "stopped from the keyboard; nothing half-written is left")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise
    except Exception as exc:
        if isinstance(exc, CommandError | ServiceError):
            print_error(exc.code, exc.message)
        elif isinstance(exc, OSError):
            print_error("io-error", f"{exc.strerror or exc}{f': {exc.filename}' if exc.filename else ''}")
        else:
            raise
        raise typer.Exit(1) from exc


def print_error(code: str, message: str) -> None:
    """Write `error[code]: message` to stderr, in colour on a terminal."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[bold red]error\\[{escape(code)}][/]: {escape(message)}")


def note(message: str) -> None:
    """Write one line for people to stderr."""
    print(message, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Write a result for programs to stdout: one indented JSON document, keys in the order given."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_result(value: Any, show: Callable[[Any], None], *, json: bool) -> None:
    """Write a result to stdout: as JSON for programs, or as `show` does for people."""
    if json:
        print_json(value)
    else:
        show(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Write a table to stdout; columns that hold only numbers are aligned right. In a pipe lines are never wrapped.

    Args:
        columns: headings.
        rows: cells, one per column.
        title: a line above the table.
    """
    console = Console() if sys.stdout.isatty() else Console(width=1_000)
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", header_style="bold")
    for position, heading in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[position]) for row in rows)
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


@contextlib.contextmanager
def progress_reports(description: str) -> Iterator[Report]:
    """Show the progress of one operation on stderr while the block runs.

    Meanwhile anything that a library prints to stdout goes to stderr: stdout belongs to the result.

    Args:
        description: what is being done, such as "export".

    Returns:
        A function to call with a stage name and the finished share of the whole; any thread may call it.
    """
    with contextlib.redirect_stdout(sys.stderr):
        if sys.stderr.isatty():
            with _bar(description) as report:
                yield report
        else:
            yield _plain_lines(description)


@contextlib.contextmanager
def _bar(description: str) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[stage]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=1.0, stage="")
        yield lambda stage, fraction: bar.update(task, completed=fraction, stage=escape(stage))


def _plain_lines(description: str) -> Report:
    start = time.monotonic()
    last_stage = ""
    last_fraction = 0.0

    def report(stage: str, fraction: float) -> None:
        nonlocal last_stage, last_fraction
        if stage == last_stage and fraction < last_fraction + PLAIN_STEP:
            return
        last_stage, last_fraction = stage, fraction
        note(f"{description}: {fraction:4.0%} {stage} ({time.monotonic() - start:.1f} s)")

    return report


def _is_number(cell: str) -> bool:
    digits = cell.strip().rstrip("%").replace(",", "").replace(".", "").lstrip("-+")
    return digits.isdigit() or cell.strip() in ("", "-")
