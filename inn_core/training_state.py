"""The state of a training run on disk: written aside and renamed, read without pickle's dangers."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inn_core.errors import TrainingStateError, first_line
from inn_core.files import written_aside

STATE_FORMAT = 1

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


def save_state(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, Any], step: int
) -> None:
    """Write a run's state; the file before it stays whole until the new one is on the disk.

    Args:
        path: the file; its folder is made.
        identity: what decides the run, plain values; a state of another run is refused.
        step: finished steps.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    state = {
        "format": STATE_FORMAT,
        "identity": dict(identity),
        "step": step,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, buffer)
    with written_aside(path) as writer:
        writer.write(buffer.getvalue())


def peek_state(path: Path | None) -> tuple[dict[str, Any], int] | None:
    """Identity and finished steps of a saved state; None where there is none, or none that `restore_` could read."""
    if path is None or not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return dict(state["identity"]), int(state["step"])
    except _UNREADABLE:
        return None


def restore_(
    path: Path | None, module: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, Any]
) -> int:
    """Load a run's state into a module and its optimizer, where there is one.

    Returns:
        Finished steps; 0 without a state.

    Raises:
        TrainingStateError: the file is unreadable or belongs to another run.
    """
    if path is None or not path.is_file():
        return 0
    try:
        state = torch.load(path, map_location=next(module.parameters()).device, weights_only=True)
        found = state["format"], state["identity"]
        parts = state["module"], state["optimizer"], int(state["step"])
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
