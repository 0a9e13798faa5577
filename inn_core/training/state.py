"""The state of a training run on disk: written aside and renamed, read without pickle's dangers.

With the parameters go the steps that are finished and the seconds that they took, over all processes of the run.
"""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from inn_core.errors import TrainingStateError, first_line
from inn_core.files import written_aside

STATE_FORMAT = 1

SAVE_SECONDS = 60.0
"""Between two states of a run, apart from those that its end or the end of an epoch asks for."""

_UNREADABLE = (
    OSError,
    RuntimeError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    EOFError,
    pickle.UnpicklingError,
)


class Finished(NamedTuple):
    """What a run has done: steps, and the seconds that they took without those whose steps were lost in a stop."""

    steps: int
    seconds: float


class RunState:
    """The state of one run, restored where there is one, and the clock of the run.

    Args:
        path: the file; None keeps nothing.
        module, optimizer: what is restored, in place, and saved.
        identity: what decides the run, plain values; a state of another run is refused.
        is_written: whether this process writes the file; of several, one does, and all restore.

    Attributes:
        steps: finished steps (or epochs, as the run counts) that were restored.

    Raises:
        TrainingStateError: as `restore_`.
    """

    def __init__(
        self,
        path: Path | None,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        identity: Mapping[str, Any],
        *,
        is_written: bool = True,
    ) -> None:
        self.steps, self._before = restore_(path, module, optimizer, identity)
        self._path = path if is_written else None
        self._parts = module, optimizer, identity
        self._started = self._saved_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds that the run took until now, those of earlier processes included."""
        return self._before + time.monotonic() - self._started

    def save(self, steps: int) -> None:
        """Write the state after so many steps."""
        if self._path is not None:
            save_state(self._path, *self._parts, Finished(steps, self.seconds))
            self._saved_at = time.monotonic()

    def save_now_and_then(self, steps: int) -> None:
        """Write the state after so many steps, if the last one is older than `SAVE_SECONDS`."""
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save(steps)


def save_state(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, Any], finished: Finished
) -> None:
    """Write a run's state; the file before it stays whole until the new one is on the disk.

    Args:
        path: the file; its folder is made.
        identity: what decides the run, plain values; a state of another run is refused.
        finished: steps and their seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    state = {
        "format": STATE_FORMAT,
        "identity": dict(identity),
        "step": finished.steps,
        "seconds": finished.seconds,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, buffer)
    with written_aside(path) as writer:
        writer.write(buffer.getvalue())


def peek_state(path: Path | None) -> tuple[dict[str, Any], Finished] | None:
    """Identity and finished steps of a saved state; None where there is none, or none that `restore_` could read."""
    if path is None or not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state["identity"]), _finished(state)
    except _UNREADABLE:
        return None


def seconds_taken(path: Path) -> float:
    """Seconds that the run of a state took; 0 where there is no state."""
    saved = peek_state(path)
    return 0.0 if saved is None else saved[1].seconds


def restore_(
    path: Path | None, module: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, Any]
) -> Finished:
    """Load a run's state into a module and its optimizer, where there is one.

    Returns:
        Finished steps and their seconds; zeros without a state.

    Raises:
        TrainingStateError: the file is unreadable or belongs to another run.
    """
    if path is None or not path.is_file():
        return Finished(0, 0.0)
    try:
        state = torch.load(path, map_location=next(module.parameters()).device, weights_only=True)
        found = state["format"], state["identity"]
        parts = state["module"], state["optimizer"], _finished(state)
    except _UNREADABLE as error:
        raise TrainingStateError(
            f"training state '{path}' cannot be read ({first_line(error)}); delete it to start again", path=str(path)
        ) from error
    if found != (STATE_FORMAT, dict(identity)):
        raise TrainingStateError(
            f"training state '{path}' belongs to another run ({found[1]}); delete it or name another state file",
            path=str(path),
        )
    try:
        module.load_state_dict(parts[0])
        optimizer.load_state_dict(parts[1])
    except _UNREADABLE as error:
        raise TrainingStateError(
            f"training state '{path}' belongs to another network ({first_line(error)}); delete it or name another "
            "state file",
            path=str(path),
        ) from error
    return parts[2]


def _finished(state: Mapping[str, Any]) -> Finished:
    """What a state says; states that were written before seconds were kept have none."""
    return Finished(int(state["step"]), float(state.get("seconds", 0.0)))
