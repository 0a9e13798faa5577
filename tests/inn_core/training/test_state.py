"""Training states come back as they were; damaged ones and those of other runs are refused."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inn_core.errors import TrainingStateError
from inn_core.training import state as training_state
from inn_core.training.state import Finished, RunState, peek_state, restore_, save_state, seconds_taken

IDENTITY = {"epochs": 3, "rate": 0.1, "kind": "test"}


def made(seed: int, width: int = 4) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A module and an optimizer that has a state of its own."""
    torch.manual_seed(seed)
    module = nn.Linear(3, width)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    module(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return module, optimizer


def test_a_state_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "run.state"
    module, optimizer = made(0)
    save_state(path, module, optimizer, IDENTITY, Finished(17, 2.5))
    other, other_optimizer = made(1)
    assert restore_(path, other, other_optimizer, dict(IDENTITY)) == Finished(17, 2.5)
    for name, tensor in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    for one, two in zip(
        optimizer.state_dict()["state"].values(), other_optimizer.state_dict()["state"].values(), strict=True
    ):
        assert torch.equal(one["exp_avg"], two["exp_avg"])
    assert [entry.name for entry in path.parent.iterdir()] == ["run.state"]


@pytest.mark.parametrize("path", [None, "absent.state"])
def test_without_a_state_a_run_starts_at_the_beginning(path: str | None, tmp_path: Path) -> None:
    module, optimizer = made(0)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert restore_(tmp_path / path if path else None, module, optimizer, IDENTITY) == Finished(0, 0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("identity", [{**IDENTITY, "epochs": 4}, {"kind": "test"}, {**IDENTITY, "more": None}])
def test_the_state_of_another_run_is_refused(identity: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.state"
    save_state(path, *made(0), IDENTITY, Finished(1, 2.5))
    with pytest.raises(TrainingStateError, match=r"run\.state' belongs to another run .*delete it or name another"):
        restore_(path, *made(0), identity)


def test_the_state_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.state"
    save_state(path, *made(0), IDENTITY, Finished(1, 2.5))
    with pytest.raises(TrainingStateError, match=r"run\.state' belongs to another network"):
        restore_(path, *made(0, width=5), IDENTITY)


def test_cut_states_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.state"
    save_state(path, *made(0), IDENTITY, Finished(1, 2.5))
    whole = path.read_bytes()
    for length in (0, 1, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(TrainingStateError, match=r"cannot be read .*delete it to start again"):
            restore_(path, *made(0), IDENTITY)


def test_flipped_bytes_end_in_an_error_of_ours_or_in_nothing(tmp_path: Path) -> None:
    """A flip inside a number may go unnoticed; no other exception may get out."""
    path = tmp_path / "run.state"
    save_state(path, *made(0), IDENTITY, Finished(1, 2.5))
    whole = path.read_bytes()
    draws = random.Random(0)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        data[draws.randrange(len(data))] ^= draws.randrange(1, 256)
        path.write_bytes(data)
        try:
            restore_(path, *made(0), IDENTITY)
        except TrainingStateError:
            refused += 1
    assert refused > 10


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The one number in it is the time."""
    now = [100.0]
    monkeypatch.setattr(training_state.time, "monotonic", lambda: now[0])
    return now


def test_the_seconds_of_all_processes_of_a_run_add_up(clock: list[float], tmp_path: Path) -> None:
    path = tmp_path / "run.state"
    first = RunState(path, *made(0), IDENTITY)
    assert (first.steps, first.seconds, seconds_taken(path)) == (0, 0.0, 0.0)
    clock[0] += 3
    first.save(5)
    clock[0] += 4  # of steps that are lost
    assert first.seconds == 7.0
    assert peek_state(path) == (IDENTITY, Finished(5, 3.0))
    clock[0] = 7.0  # another process, perhaps on another day
    second = RunState(path, *made(1), IDENTITY)
    assert (second.steps, second.seconds) == (5, 3.0)
    clock[0] += 10
    second.save(9)
    assert second.seconds == seconds_taken(path) == 13.0


def test_now_and_then_is_once_a_minute(clock: list[float], tmp_path: Path) -> None:
    path = tmp_path / "run.state"
    state = RunState(path, *made(0), IDENTITY)
    saved = []
    for step in range(1, 8):
        clock[0] += 25.0
        state.save_now_and_then(step)
        found = peek_state(path)
        saved.append(0 if found is None else found[1].steps)
    assert saved == [0, 0, 3, 3, 3, 6, 6]


@pytest.mark.parametrize("path", [None, "run.state"])
def test_a_run_that_keeps_no_state_writes_none(path: str | None, tmp_path: Path) -> None:
    """Without a path, or in a process that is not the one that writes."""
    state = RunState(tmp_path / path if path else None, *made(0), IDENTITY, is_written=False)
    state.save(1)
    assert not list(tmp_path.iterdir())


def test_a_state_of_before_seconds_were_kept_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run.state"
    save_state(path, *made(0), IDENTITY, Finished(3, 2.5))
    state = torch.load(path, weights_only=True)
    del state["seconds"]
    torch.save(state, path)
    assert restore_(path, *made(1), IDENTITY) == Finished(3, 0.0)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("form", ["pickle", "torch", "list", "text"])
def test_other_files_are_refused_and_run_nothing(form: str, tmp_path: Path) -> None:
    path, touched = tmp_path / "run.state", tmp_path / "touched"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"format": 1, "identity": IDENTITY, "step": Bomb(touched)}, protocol=2))
    elif form == "torch":
        torch.save({"format": 1, "identity": IDENTITY, "step": Bomb(touched)}, path)
    elif form == "list":
        torch.save([1, 2, 3], path)
    else:
        path.write_text("no state at all\n" * 50)
    with pytest.raises(TrainingStateError):
        restore_(path, *made(0), IDENTITY)
    assert not touched.exists()


@pytest.mark.parametrize("missing", ["module", "optimizer", "step", "identity", "format"])
def test_states_that_lack_a_part_are_refused(missing: str, tmp_path: Path) -> None:
    path = tmp_path / "run.state"
    module, optimizer = made(0)
    save_state(path, module, optimizer, IDENTITY, Finished(1, 2.5))
    state = torch.load(path, weights_only=True)
    del state[missing]
    torch.save(state, path)
    with pytest.raises(TrainingStateError):
        restore_(path, module, optimizer, IDENTITY)


def test_the_old_state_survives_a_failure_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    path = tmp_path / "run.state"
    save_state(path, *made(0), IDENTITY, Finished(1, 2.5))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_state(path, *made(1), IDENTITY, Finished(2, 2.5))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.state"]
