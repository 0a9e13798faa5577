"""Random sizes: within bounds, spread as Algorithm 1 says, reproducible without global state."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import InvalidBudgetError
from inn_core.planning.plan import Budget, choose_plan, feasible_range
from inn_core.training.size_sampling import SMALLEST_OFTEN, SizeSampler
from tests.inn_core.networks import basic_resnet
from tests.inn_core.sized_networks import small_residual

COUNT = 200


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return small_residual()


@pytest.fixture(scope="module")
def wide() -> Checkpoint:
    """Enough sizes for their distribution to show."""
    return basic_resnet()


def params_of(checkpoint: Checkpoint, sizes: dict[str, int]) -> int:
    total = 0
    for axes in checkpoint.structure.weights.values():
        total += math.prod(
            sum(math.prod(sizes.get(str(item), item) for item in segment) for segment in axis) for axis in axes
        )
    return total


def test_sizes_on_the_path_are_plans_whose_parameters_are_log_uniform(wide: Checkpoint) -> None:
    draws = SizeSampler(wide, smallest=0.1, independent=0.0)
    largest = feasible_range(wide, "params")[1]
    found = []
    for number in range(COUNT):
        sizes = dict(draws.draw(number))
        found.append(params_of(wide, sizes))
        assert sizes == choose_plan(wide, Budget("params", found[-1])).sizes
    places = np.sort(np.log(np.array(found) / largest) / math.log(0.1))  # 0 is the full network, 1 the smallest
    assert places[0] >= 0
    assert places[-1] < 1.02
    expected = (np.arange(COUNT) + 0.5) / COUNT
    assert np.abs(places - expected).max() < 1.63 / math.sqrt(COUNT)  # Kolmogorov-Smirnov, 1 %


def test_independent_sizes_are_uniform_and_reach_both_ends(checkpoint: Checkpoint) -> None:
    draws = SizeSampler(checkpoint, smallest=0.2, independent=1.0)
    drawn = [draws.draw(number) for number in range(COUNT)]
    for group in checkpoint.structure.groups:
        low, high = draws.smallest[group.name], group.size
        values, counts = np.unique([sizes[group.name] for sizes in drawn], return_counts=True)
        assert values.tolist() == list(range(low, high + 1))
        expected = COUNT / len(values)
        assert float(((counts - expected) ** 2 / expected).sum()) < 30  # chi-squared of at most 7 degrees
    first, second = (np.array([sizes[name] for sizes in drawn]) for name in draws.full)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15


def test_half_of_the_draws_are_independent_by_default(checkpoint: Checkpoint) -> None:
    on_path = SizeSampler(checkpoint, independent=0.0)
    plans = {tuple(on_path.draw(number).values()) for number in range(3000)}
    draws = SizeSampler(checkpoint)
    share = np.mean([tuple(draws.draw(number).values()) in plans for number in range(COUNT)])
    assert 0.4 < share < 0.8  # independent sizes may hit the path


def test_the_sizes_of_a_step_come_from_equal_parts_of_the_path(wide: Checkpoint) -> None:
    draws = SizeSampler(wide, smallest=0.1, independent=0.0)
    largest = feasible_range(wide, "params")[1]
    steps = [draws.step(number, 4) for number in range(COUNT)]
    for part in range(4):
        params = np.array([params_of(wide, step[part]) for step in steps])
        places = 4 * (1 - np.log(params / largest) / math.log(0.1))  # 0 is the smallest, 4 the full network
        random_ones = places[[step[0] != draws.smallest for step in steps]] if part == 0 else places
        assert part - 0.1 < random_ones.min() < part + 0.1  # planned sizes are a little below what was drawn
        assert part + 0.9 < random_ones.max() <= part + 1
        assert abs(random_ones.mean() - part - 0.5) < 4 * 0.29 / math.sqrt(len(random_ones))
    often = np.mean([step[0] == draws.smallest for step in steps])
    assert abs(often - SMALLEST_OFTEN) < 4 * 0.49 / math.sqrt(COUNT)
    assert draws.step(0, 0) == []
    assert [draws.step(number, 4) for number in (7, 3)] == [steps[7], steps[3]]


def test_a_step_has_independent_sizes_too(checkpoint: Checkpoint) -> None:
    draws = SizeSampler(checkpoint, smallest=0.2, independent=1.0)
    steps = [draws.step(number, 2) for number in range(COUNT)]
    for group in checkpoint.structure.groups:
        assert {sizes[group.name] for _, sizes in steps} == {*range(draws.smallest[group.name], group.size + 1)}
    assert any(first != second for first, second in steps)


def test_a_draw_depends_on_seed_and_number_alone(checkpoint: Checkpoint) -> None:
    draws = SizeSampler(checkpoint, seed=1)
    expected = [draws.draw(number) for number in range(10)]
    random.seed(5)
    torch.manual_seed(5)
    again = SizeSampler(checkpoint, seed=1)
    assert [again.draw(number) for number in reversed(range(10))][::-1] == expected
    assert [SizeSampler(checkpoint, seed=2).draw(number) for number in range(10)] != expected


def test_the_smallest_size_is_the_plan_of_its_share(checkpoint: Checkpoint) -> None:
    largest = feasible_range(checkpoint, "params")[1]
    draws = SizeSampler(checkpoint, smallest=0.3)
    assert draws.smallest == choose_plan(checkpoint, Budget("params", round(0.3 * largest))).sizes
    assert SizeSampler(checkpoint, smallest=1.0).smallest == draws.full == checkpoint.structure.full_sizes()
    lowest = choose_plan(checkpoint, Budget("params", feasible_range(checkpoint, "params")[0])).sizes
    assert SizeSampler(checkpoint, smallest=0.0).smallest == lowest


@pytest.mark.parametrize("name", ["smallest", "independent"])
@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_shares_out_of_range_are_named(checkpoint: Checkpoint, name: str, value: float) -> None:
    with pytest.raises(InvalidBudgetError, match=f"{name} is {value}; give a share from 0 to 1"):
        SizeSampler(checkpoint, **{name: value})
