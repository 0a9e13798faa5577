"""Options and arguments that several commands of `inn` take, and the checks on what they name."""

from __future__ import annotations

import functools
import inspect
import zipfile
import zlib
from collections.abc import Callable, Container
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from service.contract.sizes import LARGEST_BATCH, LARGEST_THREADS, Unit
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
QuadratureOption = Annotated[
    str | None,
    typer.Option(
        metavar="RULE[,…]",
        help="Rule by which quality uniform integrates kernels: riemann, trapezoid, simpson or gauss-legendre; after "
        "commas linear or cubic, and cell-centred or end-point. riemann,cubic,cell-centred when not given.",
        show_default=False,
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto takes CUDA when there is one; cpu or cuda force it.")]
BatchOption = Annotated[int, typer.Option(min=1, max=LARGEST_BATCH, help="Rows of one run, for measured budgets.")]
ThreadsOption = Annotated[
    int, typer.Option(min=1, max=LARGEST_THREADS, help="Threads of one run, for measured budgets.")
]

Command = TypeVar("Command", bound=Callable[..., Any])


def takes(**groups: Callable[..., Any]) -> Callable[[Command], Command]:
    """Gives a command options that it shares with others.

    Args:
        groups: for parameters of the command, functions that make their values. The parameters of such a function
            become options of the command, in the place of the parameter that they are for.
    """

    def decorate(command: Command) -> Command:
        shared = {name: _options(group) for name, group in groups.items()}

        @functools.wraps(command)
        def run(**given: Any) -> Any:
            for name, options in shared.items():
                given[name] = groups[name](**{option: given.pop(option) for option in options})
            return command(**given)

        parameters: list[inspect.Parameter] = []
        for name, option in _options(command, but=groups).items():
            parameters += shared.get(name, {name: option}).values()
        by_name = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        run.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return cast(Command, run)

    return decorate


def _options(function: Callable[..., Any], *, but: Container[str] = ()) -> dict[str, inspect.Parameter]:
    """The parameters of a function, with annotations that were postponed evaluated for all `but` some."""
    names = inspect.unwrap(function).__globals__
    return {
        name: parameter
        if name in but or not isinstance(parameter.annotation, str)
        else parameter.replace(annotation=eval(parameter.annotation, names))
        for name, parameter in inspect.signature(function).parameters.items()
    }


def budgets(
    params: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most so many parameters.")] = None,
    macs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most so many multiply-accumulates a sample.")
    ] = None,
    bytes: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most so many bytes of ONNX file.")] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="At most so many milliseconds a run, measured on the device at --batch and --threads."
        ),
    ] = None,
    memory_bytes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most so much memory, measured on the device.")
    ] = None,
) -> dict[Unit, float]:
    """The budgets that are given, by unit (for `takes`)."""
    values: dict[Unit, float | None] = {
        "params": params,
        "macs": macs,
        "bytes": bytes,
        "latency_ms": latency_ms,
        "memory_bytes": memory_bytes,
    }
    return {unit: value for unit, value in values.items() if value is not None}


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
