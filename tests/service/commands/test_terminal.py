"""What commands share: errors with a code, progress on stderr, tables that a pipe can read."""

import errno
import io

import pytest
import typer

from service.ground.errors import StoreFullError, UnknownModelError
from service.terminal import CommandError, print_json, print_table, progress_reports, reported_errors

ERRORS = [
    (CommandError("file-not-found", "no such [bold]file[/bold]"), "error[file-not-found]: no such [bold]file[/bold]"),
    (UnknownModelError("m", ["a"]), "error[unknown-model]: there is no model 'm'"),
    (StoreFullError(needed_bytes=2, capacity_bytes=1, free_bytes=1), "error[store-full]: the store needs 2 bytes"),
    (OSError(errno.ENOSPC, "No space left on device", "a.onnx"), "error[io-error]: No space left on device: a.onnx"),
]


@pytest.mark.parametrize(("error", "text"), ERRORS, ids=lambda value: type(value).__name__)
def test_errors_of_ours_leave_with_1_and_their_code(
    error: Exception, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as left, reported_errors():
        raise error
    captured = capsys.readouterr()
    assert left.value.exit_code == 1
    assert captured.out == ""
    assert captured.err.startswith(text)
    assert captured.err.count("\n") == 1


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), reported_errors():
        raise ZeroDivisionError


def test_a_stop_from_the_keyboard_leaves_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left, reported_errors():
        raise KeyboardInterrupt
    assert left.value.exit_code == 130
    assert capsys.readouterr().err.startswith("error[interrupted]: ")


def test_progress_in_a_pipe_is_a_line_a_stage_and_a_line_a_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_reports("export") as report:
        report("plan", 0.0)
        for percent in range(100):
            report("discretize", percent / 100)
        report("write", 1.0)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0].startswith("export:   0% plan")
    assert lines[-1].startswith("export: 100% write")
    assert len([line for line in lines if "discretize" in line]) == 10


def test_what_a_library_prints_during_progress_does_not_reach_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_reports("import"):
        print("exporter says hello")
    print("result")
    captured = capsys.readouterr()
    assert captured.out == "result\n"
    assert "exporter says hello" in captured.err


def test_progress_on_a_terminal_is_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_reports("export") as report:
        report("discretize", 0.5)
    text = terminal.getvalue()
    assert "export" in text
    assert text.rstrip("\n").endswith("\x1b[2K")


def test_a_table_in_a_pipe_is_never_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 300
    print_table(("group", "size"), [(name, "1,024"), ("[red]b[/red]", "7")], title="2 groups")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "2 groups"
    assert lines[2] == f"{name}  1,024"
    assert lines[3].split() == ["[red]b[/red]", "7"]
    assert lines[3].endswith("    7")


def test_json_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"accuracy": float("nan")})
