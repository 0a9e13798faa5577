"""A run of a recipe: what it leaves in the checkpoint, and what it does the same after a stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import inn_core.training.recipes.run
import inn_core.training.state
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.part_arrays import part_arrays
from inn_core.errors import InvalidTrainingError
from inn_core.training.loop import Batch
from inn_core.training.recipes.recipe import Recipe
from inn_core.training.recipes.run import run_recipe
from inn_core.training.recipes.samples import sizes_recipe
from inn_core.training.settings import SizeTraining
from tests.inn_core.trained_networks import integral, residual_convnet, smooth_images

CPU = torch.device("cpu")


class StopHereError(Exception):
    """Stands for a run that ends in the middle of an epoch."""


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    checkpoint = integral(residual_convnet(), {"x": smooth_images(32)})
    images = smooth_images(64, seed=2)
    found = sizes_recipe(checkpoint, {"x": images, "labels": np.arange(64) % 5})
    return replace(found, settings=SizeTraining(epochs=2, peak_rate=0.02), is_fastest=False)


def same(first: Checkpoint, second: Checkpoint) -> bool:
    return all(
        np.array_equal(array, theirs[name])
        for ours, theirs in ((first.weights, second.weights), (part_arrays(first), part_arrays(second)))
        for name, array in ours.items()
    )


def test_the_checkpoint_tells_how_it_was_trained(recipe: Recipe) -> None:
    lines: list[str] = []
    fractions: list[float] = []
    started = time.monotonic()
    trained, seconds = run_recipe(
        recipe, device=CPU, progress=lambda stage, fraction: fractions.append(fraction), note=lines.append
    )
    assert trained.trained is not None
    assert trained.trained.sampling == {"kind": "nested"}
    training = trained.provenance["training"]
    assert training["settings"]["epochs"] == 2
    assert training["labels"] is True
    assert training["data"] == recipe.data
    assert [line.split(":")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert 0 < seconds <= time.monotonic() - started
    assert "seconds" not in training  # or no two runs would end with the same bytes
    assert not same(trained, recipe.start())


def test_the_precision_of_a_run_is_measured_once(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inn_core.training.state, "SAVE_SECONDS", 0.0)
    measured: list[bool] = []

    def is_faster(*arguments: Any, **options: Any) -> bool:
        measured.append(True)
        return len(measured) == 1  # another measurement would come out otherwise

    def stop(stage: str, fraction: float) -> None:
        if fraction > 0.5:
            raise StopHereError

    monkeypatch.setattr(inn_core.training.recipes.run, "is_bfloat16_faster", is_faster)
    fast = replace(recipe, is_fastest=True)
    state = tmp_path / "state"
    with pytest.raises(StopHereError):
        run_recipe(fast, device=CPU, state_path=state, progress=stop)
    lines: list[str] = []
    resumed, _ = run_recipe(fast, device=CPU, state_path=state, note=lines.append)
    assert len(measured) == 1
    assert lines[0].startswith("going on after step ")
    assert resumed.provenance["training"]["settings"]["bfloat16"] is True
    measured.clear()
    assert same(resumed, run_recipe(fast, device=CPU).checkpoint)


def test_the_seconds_before_a_stop_are_told(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inn_core.training.state, "SAVE_SECONDS", 0.0)

    def stop(stage: str, fraction: float) -> None:
        if fraction > 0.5:
            raise StopHereError

    path = tmp_path / "state"
    with pytest.raises(StopHereError):
        run_recipe(recipe, device=CPU, state_path=path, progress=stop)
    state = torch.load(path, weights_only=True)
    assert 0 < state["seconds"] < 1000
    torch.save({**state, "seconds": 1000.0}, path)
    lines: list[str] = []
    _, seconds = run_recipe(recipe, device=CPU, state_path=path, note=lines.append)
    assert 1000 < seconds < 2000
    assert 1000 <= int(lines[-1].split()[-2]) < 2000


def test_a_checkpoint_without_samples_is_trained_and_stays_without(recipe: Recipe) -> None:
    start = replace(recipe.start(), calibration={})
    trained, _ = run_recipe(replace(recipe, start=lambda: start), device=CPU)
    assert not trained.calibration
    assert trained.trained is not None


class _None:
    def __len__(self) -> int:
        return 0

    def epoch(self, number: int) -> Iterator[Batch]:
        return iter(())


def test_an_epoch_without_batches_is_refused(recipe: Recipe) -> None:
    with pytest.raises(InvalidTrainingError, match="no batches"):
        run_recipe(replace(recipe, batches=_None()), device=CPU)
