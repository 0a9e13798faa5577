"""Running averages: closed forms, what is left out, states, and precision."""

from __future__ import annotations

import pytest
import torch
from scipy.special import poch
from torch import nn

from inn_core.training.averaging import RunningAverage


def walked(module: nn.Module, average: RunningAverage, n_steps: int) -> torch.Tensor:
    """Set the weight of a module to random values, step by step; returns them, shape `(steps, *weight)`."""
    generator = torch.Generator().manual_seed(4)
    path = torch.randn((n_steps, *module.weight.shape), generator=generator, dtype=torch.float64)
    for values in path:
        with torch.no_grad():
            module.weight.copy_(values)
        average.add_()
    return path


@pytest.mark.parametrize("eta", [0, 1, 3, 8])
def test_steps_have_the_weights_of_the_polynomial(eta: int) -> None:
    """Of step k, k (k + 1) ... (k + eta - 1); with eta = 0 it is the mean."""
    module = nn.Linear(3, 2, bias=False).double()
    average = RunningAverage(module, 1 / (eta + 1))
    path = walked(module, average, 20)
    weights = torch.from_numpy(poch(torch.arange(1.0, 21.0, dtype=torch.float64).numpy(), eta))
    average.apply_()
    expected = torch.tensordot(weights / weights.sum(), path, dims=1)
    torch.testing.assert_close(module.weight.detach(), expected, rtol=1e-12, atol=1e-12)


def test_without_a_share_the_last_step_stays() -> None:
    module = nn.Linear(3, 2).double()
    average = RunningAverage(module, 0.0)
    path = walked(module, average, 5)
    average.apply_()
    assert torch.equal(module.weight.detach(), path[-1])
    assert not list(average.parameters())


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_before_the_first_step_nothing_changes(share: float) -> None:
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    RunningAverage(module, share).apply_()
    assert torch.equal(module.weight.detach(), before)


@pytest.mark.parametrize("buffers", [False, True])
def test_running_statistics_are_averaged_where_asked(buffers: bool) -> None:
    module = nn.BatchNorm1d(1)
    average = RunningAverage(module, 1.0, buffers=buffers)
    for value in (2.0, 6.0):
        module.running_mean.fill_(value)
        module.num_batches_tracked += 1
        average.add_()
    average.apply_()
    assert float(module.running_mean) == (4.0 if buffers else 6.0)
    assert int(module.num_batches_tracked) == 2


def test_a_state_goes_on_to_the_bit() -> None:
    module = nn.Linear(3, 2).double()
    whole, first = RunningAverage(module, 0.25), RunningAverage(module, 0.25)
    walked(module, whole, 6)
    walked(module, whole, 4)
    walked(module, first, 6)
    second = RunningAverage(module, 0.25)
    second.load_state_dict(first.state_dict())
    walked(module, second, 4)
    for found, expected in zip(second.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(found, expected)


def test_small_steps_are_not_rounded_away_in_half_precision() -> None:
    module = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    average = RunningAverage(module, 1.0)
    for step in range(1024):
        with torch.no_grad():
            module.weight.fill_(float(step % 2))
        average.add_()
    average.apply_()
    assert module.weight.dtype is torch.bfloat16
    assert float(module.weight.detach()) == 0.5
