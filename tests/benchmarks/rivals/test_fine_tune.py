"""Training for a number of steps: it learns, it repeats, it counts, and it stops when the goal is reached."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.rivals.fine_tune import fine_tune_to
from inn_core.errors import TrainingStateError
from inn_core.training import state as training_state
from inn_core.training.recipes.images import Schedule, augmented_batches
from models.recipes.classifier import accuracy, endless_batches, train_steps_

SCHEDULE = Schedule(seed=3, batch_images=16, peak_rate=0.2)
CPU = torch.device("cpu")
Problem = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def problem() -> Problem:
    """Three classes that differ in brightness."""
    random = np.random.default_rng(0)
    labels = np.arange(150, dtype=np.uint8) % 3
    images = np.array([20, 120, 220], dtype=np.int64)[labels, None, None] + random.integers(-20, 21, (150, 8, 8))
    return images.astype(np.uint8), labels


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3)).eval()


def trained(
    module: nn.Module, problem: Problem, n_steps: int, *, seed: int = 3, average_share: float = 0.0
) -> nn.Module:
    result = copy.deepcopy(module)
    schedule = replace(SCHEDULE, seed=seed, average_share=average_share)
    train_steps_(result, *problem, n_steps=n_steps, schedule=schedule, device=CPU, bfloat16=False)
    return result


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_steps_learn_a_problem_that_can_be_learned(module: nn.Module, problem: Problem) -> None:
    assert accuracy(module, *problem) < 0.7
    result = trained(module, problem, 40)
    assert accuracy(result, *problem) >= 0.95
    assert not result.training


def test_averaged_weights_learn_it_too(module: nn.Module, problem: Problem) -> None:
    result = trained(module, problem, 200, average_share=0.25)
    assert accuracy(result, *problem) >= 0.95
    assert not torch.equal(weights(result), weights(trained(module, problem, 200)))


def test_no_steps_change_nothing(module: nn.Module, problem: Problem) -> None:
    assert torch.equal(weights(trained(module, problem, 0)), weights(module))


def test_equal_seeds_give_equal_weights_and_others_do_not(module: nn.Module, problem: Problem) -> None:
    first = weights(trained(module, problem, 3))
    assert torch.equal(first, weights(trained(module, problem, 3)))
    assert not torch.equal(first, weights(trained(module, problem, 3, seed=4)))


def test_one_step_is_sgd_by_hand(module: nn.Module, problem: Problem) -> None:
    schedule = replace(SCHEDULE, weight_decay=0.0, label_smoothing=0.0)
    result = copy.deepcopy(module)
    train_steps_(result, *problem, n_steps=1, schedule=schedule, device=CPU, bfloat16=False)
    batch, targets = next(iter(augmented_batches(*problem, schedule, 0)))
    module.train()
    torch.autograd.backward(nn.functional.cross_entropy(module(batch), targets))
    gradient = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    # the first step of Nesterov momentum is the gradient and 0.9 times it again
    expected = weights(module) - schedule.rate(0.5) * 1.9 * gradient
    torch.testing.assert_close(weights(result), expected, rtol=1e-4, atol=1e-6)


def test_batches_go_on_after_an_epoch(problem: Problem) -> None:
    n_batches = -(-150 // 16)
    stream = list(itertools.islice(endless_batches(*problem, SCHEDULE), 2 * n_batches))
    again = list(augmented_batches(*problem, SCHEDULE, 1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(stream[n_batches:], again, strict=True))
    assert sum(len(targets) for _, targets in stream[:n_batches]) == 150


def test_skipped_batches_are_left_out(problem: Problem) -> None:
    stream = list(itertools.islice(endless_batches(*problem, SCHEDULE), 15))
    later = list(itertools.islice(endless_batches(*problem, SCHEDULE, skipped=12), 3))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(stream[12:], later, strict=True))


class StoppedError(Exception):
    """Raised in the middle of a training."""


def steps_until(
    module: nn.Module,
    problem: Problem,
    state: Path,
    *,
    stop_after: float = 2.0,
    n_steps: int = 14,
    average_share: float = 0.0,
) -> None:
    """Train with a state; the run is stopped when it reports that share."""

    def progress(_stage: str, share: float) -> None:
        if share >= stop_after:
            raise StoppedError

    train_steps_(
        module,
        *problem,
        n_steps=n_steps,
        schedule=replace(SCHEDULE, average_share=average_share),
        device=CPU,
        bfloat16=False,
        state_path=state,
        progress=progress,
    )


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_stopped_run_ends_with_the_same_bits(
    module: nn.Module, problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    expected = trained(module, problem, 14, average_share=share).state_dict()
    monkeypatch.setattr(training_state, "SAVE_SECONDS", 0.0)
    state = tmp_path / "run.pt"
    with pytest.raises(StoppedError):
        steps_until(copy.deepcopy(module), problem, state, stop_after=0.8, average_share=share)  # in the second epoch
    resumed = copy.deepcopy(module)
    steps_until(resumed, problem, state, average_share=share)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.state_dict().items())
    again = copy.deepcopy(module)
    steps_until(again, problem, state, average_share=share)  # the state of the finished run
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_the_state_of_another_run_is_refused(module: nn.Module, problem: Problem, tmp_path: Path) -> None:
    state = tmp_path / "run.pt"
    steps_until(copy.deepcopy(module), problem, state, n_steps=2)
    with pytest.raises(TrainingStateError, match="belongs to another run"):
        steps_until(copy.deepcopy(module), problem, state, n_steps=3)


def to_goal(module: nn.Module, problem: Problem, goal: float, ladder: tuple[int, ...]) -> tuple[int, bool, float]:
    before = weights(module)
    tuned = fine_tune_to(
        module,
        *problem,
        goal=goal,
        judge=lambda candidate: accuracy(candidate, *problem),
        ladder=ladder,
        schedule=SCHEDULE,
        device=CPU,
        bfloat16=False,
    )
    assert torch.equal(weights(module), before)
    assert accuracy(tuned.module, *problem) == tuned.accuracy
    return tuned.n_steps, tuned.is_reached, tuned.accuracy


def test_a_goal_that_is_met_already_costs_nothing(module: nn.Module, problem: Problem) -> None:
    assert to_goal(module, problem, 0.0, (5,))[:2] == (0, True)


def test_the_first_number_of_steps_that_reaches_the_goal_is_taken(module: nn.Module, problem: Problem) -> None:
    needed, is_reached, found = to_goal(module, problem, 0.95, (1, 2, 40, 80))
    assert (needed, is_reached) == (40, True)
    assert found >= 0.95


def test_a_goal_out_of_reach_gives_the_best_try(module: nn.Module, problem: Problem) -> None:
    needed, is_reached, found = to_goal(module, problem, 1.1, (1, 40))
    assert (needed, is_reached) == (40, False)
    assert found >= 0.95
