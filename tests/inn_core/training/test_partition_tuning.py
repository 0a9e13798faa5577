"""Partition tuning changes partitions and nothing else, and what it learns lowers the loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import InvalidTrainingError, StatisticsMissingError
from inn_core.training.integral_network import IntegralNetwork
from inn_core.training.loop import Batch
from inn_core.training.partition_tuning import tune_partitions_
from inn_core.training.step import Teacher, divergences, named_outputs
from tests.inn_core.sized_networks import inputs_of, small_residual, smoothed, with_kernels


class WholeSet:
    """One batch an epoch: all samples."""

    def __init__(self, samples: Tensor) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return 1

    def epoch(self, number: int) -> Iterator[Batch]:
        yield (self._samples,), None


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return smoothed(small_residual())


def half(network: IntegralNetwork) -> dict[str, int]:
    return {name: max(1, size // 2) for name, size in network.full_sizes.items()}


def loss(network: IntegralNetwork, sizes: dict[str, int], samples: Tensor) -> float:
    network.train()
    teacher = Teacher(network)
    with torch.no_grad():
        wanted = teacher(samples)
        return float(divergences(wanted, named_outputs(network, network(samples, sizes=sizes)), teacher.kinds))


def test_the_loss_falls_and_no_weight_moves(checkpoint: Checkpoint) -> None:
    network = with_kernels(checkpoint)
    samples = inputs_of(checkpoint)
    sizes = half(network)
    before = {name: tensor.clone() for name, tensor in network.parts.state_dict().items()}
    start = loss(network, sizes, samples)
    tune_partitions_(network, [sizes], WholeSet(samples), steps=40)
    assert not network.training
    assert loss(network, sizes, samples) < start
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.parts.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parts.parameters())
    assert all(parameter.grad is None for parameter in network.parts.parameters())


def test_edges_rise_from_0_to_1_and_serve_other_sizes(checkpoint: Checkpoint) -> None:
    network = with_kernels(checkpoint)
    sizes = half(network)
    tune_partitions_(network, [sizes], WholeSet(inputs_of(checkpoint)), steps=10, rate=0.2)
    sampler = network.sampler
    like = torch.zeros(1)
    for name, size in sizes.items():
        (edges,) = sampler.tuned[name]
        assert len(edges) == size + 1
        assert edges[0] == 0
        assert edges[-1] == 1
        assert (edges.diff() >= 0).all()
        for other in range(1, network.full_sizes[name]):
            partition = sampler.partition(name, other, like)
            assert len(partition) == other
            assert float(partition.weights.sum()) == pytest.approx(1, abs=1e-5)


def test_several_plans_are_kept_apart(checkpoint: Checkpoint) -> None:
    network = with_kernels(checkpoint)
    plans = [half(network), {name: max(1, size // 4) for name, size in network.full_sizes.items()}]
    tune_partitions_(network, plans, WholeSet(inputs_of(checkpoint)), steps=2)
    for name in network.full_sizes:
        found = {len(edges) - 1 for edges in network.sampler.tuned[name]}
        assert found == {plan[name] for plan in plans}


def test_nested_sizes_have_no_partition_to_tune(checkpoint: Checkpoint) -> None:
    network = IntegralNetwork(checkpoint)
    with pytest.raises(InvalidTrainingError, match="KernelSampler"):
        tune_partitions_(network, [half(network)], WholeSet(inputs_of(checkpoint)), steps=1)


def test_a_loss_that_is_not_finite_ends_the_tuning(checkpoint: Checkpoint) -> None:
    network = with_kernels(checkpoint)
    with pytest.raises(InvalidTrainingError, match="lower the rate"):
        tune_partitions_(
            network,
            [half(network)],
            WholeSet(inputs_of(checkpoint)),
            steps=1,
            task_loss=lambda output, _: output.sum() * float("nan"),
        )


def test_after_tuning_the_statistics_are_those_of_other_partitions(checkpoint: Checkpoint) -> None:
    """No weight moved, and yet every size computes something else."""
    network = with_kernels(checkpoint)
    network.measure_()
    tune_partitions_(network, [half(network)], WholeSet(inputs_of(checkpoint)), steps=2)
    with pytest.raises(StatisticsMissingError):
        network(inputs_of(checkpoint))
    network.measure_()
    network(inputs_of(checkpoint))


def test_tuning_that_fails_leaves_no_half_tuned_partition(checkpoint: Checkpoint) -> None:
    network = with_kernels(checkpoint)
    samples, sizes = inputs_of(checkpoint), half(network)
    with torch.no_grad():
        before = network.train()(samples, sizes=sizes)
    calls = []

    def then_nan(output: Tensor, _: object) -> Tensor:
        calls.append(0)
        return output.square().sum() * (1.0 if len(calls) < 3 else float("nan"))

    with pytest.raises(InvalidTrainingError, match="lower the rate"):
        tune_partitions_(network, [sizes], WholeSet(samples), steps=5, task_loss=then_nan)
    assert not network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    with torch.no_grad():
        assert torch.equal(network.train()(samples, sizes=sizes), before)


def test_tuned_partitions_come_back_from_a_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    network = with_kernels(checkpoint)
    sizes = half(network)
    tune_partitions_(network, [sizes], WholeSet(inputs_of(checkpoint)), steps=10)
    network.save(tmp_path / "tuned.inn")
    found = IntegralNetwork.load(tmp_path / "tuned.inn").eval()
    for share in (1, 2, 3):
        plan = {name: max(1, size // share) for name, size in network.full_sizes.items()}
        with torch.no_grad():
            wanted = network.eval()(inputs_of(checkpoint), sizes=plan)
            torch.testing.assert_close(found(inputs_of(checkpoint), sizes=plan), wanted, rtol=0, atol=1e-5)


def test_labels_may_be_used_and_progress_is_told(checkpoint: Checkpoint) -> None:
    network = with_kernels(checkpoint)
    samples, sizes = inputs_of(checkpoint), half(network)
    seen: list[float] = []
    losses: list[float] = []

    def task(output: Tensor, _: object) -> Tensor:
        value = torch.nn.functional.cross_entropy(output, torch.arange(len(samples)) % 5)
        losses.append(float(value.detach()))
        return value

    tune_partitions_(
        network, [sizes], WholeSet(samples), steps=30, task_loss=task, progress=lambda _, done: seen.append(done)
    )
    assert losses[-1] < losses[0]
    assert seen == pytest.approx([(step + 1) / 30 for step in range(30)])
