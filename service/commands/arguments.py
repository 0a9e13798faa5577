"""Options and arguments that several commands of `inn` take, and the checks on what they name."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.ground.names import is_digest, is_name
from service.terminal import CommandError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CheckpointArgument = Annotated[Path, typer.Argument(metavar="N.inn", help="Checkpoint file.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
QualityOption = Annotated[
    str | None,
    typer.Option(
        help="How weights are made: refined fits them to samples, instant takes milliseconds, trained takes them as "
        "inn train left them, uniform samples kernels at a uniform partition. The best that the checkpoint offers when "
        "not given.",
        show_default=False,
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto takes CUDA when there is one; cpu or cuda force it.")]


def check_input_file(path: Path, what: str) -> Path:
    """The path, when it is a file that can be read.

    Raises:
        CommandError: `file-not-found`, naming what was looked for.
    """
    if path.is_dir():
        raise CommandError("file-not-found", f"{what} '{path}' is a folder; name the file itself")
    if not path.is_file():
        raise CommandError("file-not-found", f"{what} '{path}' does not exist; check the path")
    return path


def check_output_file(path: Path) -> Path:
    """The path, when a file can be written there: its folder exists and it is not a folder itself.

    Raises:
        CommandError: `invalid-output`.
    """
    if path.is_dir():
        raise CommandError("invalid-output", f"output '{path}' is a folder; name a file in it")
    if not path.parent.is_dir():
        raise CommandError(
            "invalid-output",
            f"output '{path}' lies in a folder that does not exist; create it: mkdir -p '{path.parent}'",
        )
    return path


def check_name(name: str, hint: str) -> str:
    """The name of a checkpoint or model, when it is one that the hub takes.

    Raises:
        typer.BadParameter: the hub would refuse it; `hint` is the way out.
    """
    if not is_name(name):
        raise typer.BadParameter(
            f"name '{name}' is not allowed: 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first; {hint}"
        )
    return name


def check_digest(digest: str | None) -> str | None:
    """The digest, when it has the form of one.

    Raises:
        typer.BadParameter: it has not.
    """
    if digest is not None and not is_digest(digest):
        raise typer.BadParameter(f"'{digest}' is no digest; one looks like sha256: and 64 digits 0-9a-f")
    return digest


def read_arrays(path: Path, what: str) -> dict[str, NDArray[Any]]:
    """Read a `.npz` file of named arrays.

    Args:
        path: file written by `numpy.savez`.
        what: what the arrays are for, such as "calibration file", for messages.

    Returns:
        The arrays by name, in the order of the file.

    Raises:
        CommandError: `file-not-found`, or `invalid-arrays` when the file is no `.npz`, is damaged, holds Python
            objects, or holds nothing.
    """
    check_input_file(path, what)
    import numpy as np

    arrays: dict[str, NDArray[Any]] = {}
    # Opened here, since numpy leaves a file open that turns out to be no archive.
    with path.open("rb") as stream:
        try:
            loaded = np.load(stream, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as exc:
            raise CommandError(
                "invalid-arrays", f"{what} '{path}' is no .npz file; write it with numpy.savez(path, NAME=array)"
            ) from exc
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise CommandError(
                "invalid-arrays",
                f"{what} '{path}' holds one unnamed array; write it with numpy.savez(path, NAME=array)",
            )
        for name in loaded.files:
            try:
                arrays[name] = loaded[name]
            except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as exc:
                raise CommandError(
                    "invalid-arrays",
                    f"array '{name}' of {what} '{path}' cannot be read ({exc}); "
                    "only arrays of numbers are read, never pickled objects",
                ) from exc
    if not arrays:
        raise CommandError("invalid-arrays", f"{what} '{path}' holds no array; it needs one for each graph input")
    return arrays
