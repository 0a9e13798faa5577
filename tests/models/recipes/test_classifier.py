"""The training loop: it learns, it repeats, and a stopped run continues as if it had not been stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from inn_core.errors import TrainingStateError
from inn_core.training.recipes.images import Schedule
from models.recipes.classifier import accuracy, train_classifier_

SCHEDULE = Schedule(seed=3, epochs=4, batch_images=16, peak_rate=0.2)
CPU = torch.device("cpu")


class StopHereError(Exception):
    """Stands for a run that is killed between two epochs."""


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


@pytest.fixture
def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Three classes that differ in brightness, which neither shifts nor flips change."""
    random = np.random.default_rng(0)
    labels = np.arange(150, dtype=np.uint8) % 3
    images = np.array([20, 120, 220], dtype=np.int64)[labels, None, None] + random.integers(-20, 21, (150, 8, 8))
    return images.astype(np.uint8), labels


def trained(
    images: np.ndarray,
    labels: np.ndarray,
    state: Path | None = None,
    *,
    stop_after: int = 0,
    average_share: float = 0.0,
) -> nn.Module:
    def after_epoch(epoch: int, loss: float) -> None:
        if epoch == stop_after:
            raise StopHereError

    module = small_network()
    train_classifier_(
        module,
        images,
        labels,
        schedule=replace(SCHEDULE, average_share=average_share),
        device=CPU,
        bfloat16=False,
        state_path=state,
        after_epoch=after_epoch,
    )
    return module


def test_training_learns_a_problem_that_can_be_learned(images_and_labels: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = images_and_labels
    assert accuracy(small_network(), images, labels) < 0.7
    module = trained(images, labels)
    assert accuracy(module, images, labels) >= 0.95
    assert not module.training


def test_equal_seeds_give_equal_weights(images_and_labels: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = trained(*images_and_labels), trained(*images_and_labels)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_stopped_run_continues_to_the_same_weights(
    images_and_labels: tuple[np.ndarray, np.ndarray], tmp_path: Path, share: float
) -> None:
    state = tmp_path / "deep" / "training.pt"
    with pytest.raises(StopHereError):
        trained(*images_and_labels, state, stop_after=2, average_share=share)
    resumed = trained(*images_and_labels, state, average_share=share)
    whole = trained(*images_and_labels, average_share=share)
    assert torch.equal(whole[0].weight, trained(*images_and_labels)[0].weight) == (share == 0)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert [path.name for path in state.parent.iterdir()] == ["training.pt"]


def test_the_state_of_another_run_is_refused(images_and_labels: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    state = tmp_path / "training.pt"
    trained(*images_and_labels, state)
    with pytest.raises(TrainingStateError, match="another run"):
        train_classifier_(
            small_network(),
            *images_and_labels,
            schedule=replace(SCHEDULE, seed=4),
            device=CPU,
            bfloat16=False,
            state_path=state,
        )


def test_progress_rises_to_one(images_and_labels: tuple[np.ndarray, np.ndarray]) -> None:
    fractions: list[float] = []
    train_classifier_(
        small_network(),
        *images_and_labels,
        schedule=SCHEDULE,
        device=CPU,
        bfloat16=True,
        progress=lambda stage, fraction: fractions.append(fraction),
    )
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
