"""Training in two processes: gradients are averaged at every size, and all processes hold the same network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inn_core.errors import InvalidTrainingError
from inn_core.training.integral_network import IntegralNetwork
from inn_core.training.loop import train_sizes_
from inn_core.training.settings import SizeTraining
from inn_core.training.step import sandwich_step, unwrapped
from tests.inn_core.sized_networks import close, inputs_of, small_residual

SETTINGS = SizeTraining(epochs=1, peak_rate=0.05)
BATCH = 16
SEED = 5
RUNS = {"plain": (False, True), "normalized": (True, False)}
"""Whether nodes are normalized, and whether labels are read."""


class Parts:
    """Batches of all samples in order, or the part of one process of two."""

    def __init__(self, rank: int | None) -> None:
        inputs = inputs_of(small_residual())
        self._batches = list(zip(inputs.split(BATCH), (torch.arange(len(inputs)) % 5).split(BATCH), strict=True))
        self._rank = rank

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, number: int) -> Sequence[tuple[tuple[Tensor, ...], Tensor]]:
        """The same in every epoch."""
        if self._rank is None:
            return [((inputs,), targets) for inputs, targets in self._batches]
        return [((x.chunk(2)[self._rank],), y.chunk(2)[self._rank]) for x, y in self._batches]


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, target)


def fresh(*, normalize: bool) -> IntegralNetwork:
    return IntegralNetwork(small_residual(), normalize=normalize, seed=SEED)


def trained(network: IntegralNetwork, module: nn.Module, rank: int | None, **options: Any) -> dict[str, Any]:
    losses: list[float] = []
    train_sizes_(module, Parts(rank), settings=SETTINGS, after_epoch=lambda _, loss: losses.append(loss), **options)
    return {"state": network.state_dict(), "losses": losses, "training": module.training}


def loop_by_hand(rank: int) -> dict[str, Any]:
    """Two steps of three sizes each, on this process's half of the samples, in a loop as users write it."""
    network = fresh(normalize=False)
    wrapped = nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    half = inputs_of(small_residual()).chunk(2)[rank]
    drawn = []
    for step in range(2):
        optimizer.zero_grad()
        for sizes in (network.full_sizes, *network.sandwich(smaller=2)):
            drawn.append(tuple(sizes.values()))
            wrapped(half, sizes=sizes).square().mean().backward()
        if step == 0:
            gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
        optimizer.step()
    return {"drawn": drawn, "gradients": gradients, "state": network.state_dict()}


def rank_of_two(rank: int, folder: str) -> None:
    """One of two processes, whose global seeds differ, as they do in real runs."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(rank)
    results: dict[str, Any] = {}
    for run, (normalize, labels) in RUNS.items():
        network = fresh(normalize=normalize)
        wrapped = nn.parallel.DistributedDataParallel(network)
        task = cross_entropy if labels else None
        results[run] = trained(network, wrapped, rank, task_loss=task, state_path=Path(folder) / f"{run}.state")
        torch.distributed.barrier()  # the first process may still be writing the state
    resumed = fresh(normalize=normalize)
    wrapped = nn.parallel.DistributedDataParallel(resumed)
    results["again"] = trained(resumed, wrapped, rank, task_loss=task, state_path=Path(folder) / f"{run}.state")
    results["by hand"] = loop_by_hand(rank)
    network = fresh(normalize=False)
    poisoned = Parts(rank).epoch(0)[0]
    if rank == 1:
        poisoned[0][0][0] = math.nan
    try:
        sandwich_step(
            nn.parallel.DistributedDataParallel(network.train()), *poisoned, settings=SETTINGS, task_loss=cross_entropy
        )
    except InvalidTrainingError as error:
        results["error"] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(rank_of_two, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("run", list(RUNS))
def test_both_processes_hold_the_same_network(both: list[dict[str, Any]], run: str) -> None:
    one, two = (results[run] for results in both)
    start = fresh(normalize=RUNS[run][0]).state_dict()
    for name, tensor in one["state"].items():
        assert torch.equal(two["state"][name], tensor), name
        assert not torch.equal(start[name], tensor), name
    assert one["losses"] == two["losses"]
    assert not one["training"]


def test_without_normalization_it_is_the_network_of_one_process_on_the_joined_batches(
    both: list[dict[str, Any]],
) -> None:
    network = fresh(normalize=False)
    expected = trained(network, network, None, task_loss=cross_entropy)
    found = both[0]["plain"]
    for name, tensor in expected["state"].items():
        close(found["state"][name], tensor)
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)


def test_the_state_of_a_run_is_written_once_and_read_by_all(both: list[dict[str, Any]]) -> None:
    """The second run finds that nothing is left to do."""
    for results in both:
        assert results["again"]["losses"] == []
        for name, tensor in results["normalized"]["state"].items():
            assert torch.equal(results["again"]["state"][name], tensor), name


def test_a_loss_that_is_not_finite_in_one_process_ends_the_run_in_all(both: list[dict[str, Any]]) -> None:
    for results in both:
        assert "lower the learning rate" in results["error"]


def test_a_loop_by_hand_has_the_draws_and_the_gradients_of_one_process(both: list[dict[str, Any]]) -> None:
    one, two = (results["by hand"] for results in both)
    assert one["drawn"] == two["drawn"]
    assert len(set(one["drawn"])) > 3
    for name, tensor in one["state"].items():
        assert torch.equal(two["state"][name], tensor), name
    network = fresh(normalize=False)
    inputs = inputs_of(small_residual())
    for sizes in (network.full_sizes, *network.sandwich(smaller=2)):
        network(inputs, sizes=sizes).square().mean().backward()
    for parameter, *found in zip(network.parameters(), one["gradients"], two["gradients"], strict=True):
        assert parameter.grad is not None
        for gradient in found:
            close(gradient, parameter.grad)


def test_a_module_without_an_integral_network_is_refused() -> None:
    network = fresh(normalize=False)
    wrapper = nn.Module()
    wrapper.module = network
    assert unwrapped(wrapper) is unwrapped(network) is network
    with pytest.raises(InvalidTrainingError, match="Linear is no IntegralNetwork and wraps none"):
        train_sizes_(nn.Linear(2, 2), Parts(None), settings=SETTINGS)
