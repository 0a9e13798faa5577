"""The integral network in use: copies, files, statistics, precision, accumulation, several processes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # the name every PyTorch reader knows
from torch import Tensor

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import load_checkpoint, save_checkpoint
from inn_core.errors import StatisticsMissingError
from inn_core.integral.kernel_sampler import KernelSampler
from inn_core.training.integral_network import IntegralNetwork
from tests.inn_core.sized_networks import (
    KINDS,
    close,
    inputs_of,
    own_output,
    shaken_,
    shares,
    small_residual,
    smoothed,
    with_kernels,
)


@pytest.fixture(scope="module", params=sorted(KINDS))
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    """Each kind of network, with smoothing orders."""
    return smoothed(KINDS[request.param]())


@pytest.fixture(scope="module")
def residual() -> Checkpoint:
    return smoothed(small_residual())


@pytest.fixture(scope="module")
def measured(residual: Checkpoint) -> IntegralNetwork:
    """A moved network in evaluation mode, with statistics; tests leave it as it is."""
    network = shaken_(IntegralNetwork(residual))
    network.measure_()
    return network.eval()


def test_a_state_dict_carries_everything_over(residual: Checkpoint, measured: IntegralNetwork) -> None:
    other = IntegralNetwork(residual)
    other.load_state_dict(measured.state_dict())
    other.measure_()
    other.eval()
    inputs = inputs_of(residual)
    for share in (1.0, 0.4):
        assert torch.equal(other.at(shares(residual, share))(inputs), measured.at(shares(residual, share))(inputs))


@pytest.mark.parametrize("assign", [False, True])
def test_statistics_of_other_parameters_are_not_used(
    residual: Checkpoint, measured: IntegralNetwork, assign: bool
) -> None:
    other = IntegralNetwork(residual).eval()
    other.measure_()
    other.load_state_dict({name: tensor.clone() for name, tensor in measured.state_dict().items()}, assign=assign)
    with pytest.raises(StatisticsMissingError):
        other(inputs_of(residual))


@pytest.mark.parametrize("kernels", [False, True])
def test_a_deep_copy_is_independent(residual: Checkpoint, kernels: bool) -> None:
    network = with_kernels(residual) if kernels else IntegralNetwork(residual)
    network.measure_()
    network.eval()
    twin = copy.deepcopy(network)
    assert twin.checkpoint is network.checkpoint
    inputs, sizes = inputs_of(residual), shares(residual, 0.5)
    before = network.at(sizes)(inputs)
    assert torch.equal(twin.at(sizes)(inputs), before)  # statistics came along
    assert twin.sample_sizes() == network.sample_sizes()
    shaken_(twin)
    assert torch.equal(network.at(sizes)(inputs), before)
    with pytest.raises(StatisticsMissingError):
        twin(inputs)
    unmeasured = copy.deepcopy(shaken_(network))
    with pytest.raises(StatisticsMissingError):
        unmeasured(inputs)


def test_tuning_a_copy_leaves_the_original_alone(residual: Checkpoint) -> None:
    network = with_kernels(residual, normalize=False)
    twin = copy.deepcopy(network)
    inputs, sizes = inputs_of(residual), shares(residual, 0.5)
    before = network.at(sizes)(inputs)
    assert isinstance(twin.sampler, KernelSampler)
    deltas = twin.sampler.tune_(sizes)
    with torch.no_grad():
        for delta in deltas:
            delta[0] *= 3
    twin.sampler.settle_()
    assert not torch.equal(twin.at(sizes)(inputs), before)
    assert torch.equal(network.at(sizes)(inputs), before)


@pytest.mark.parametrize("kernels", [False, True])
def test_saving_and_loading_keeps_every_size(checkpoint: Checkpoint, kernels: bool, tmp_path: Path) -> None:
    network = shaken_(with_kernels(checkpoint) if kernels else IntegralNetwork(checkpoint))
    digest = network.save(tmp_path / "a.inn")
    network.eval()
    loaded = IntegralNetwork.load(tmp_path / "a.inn").eval()
    inputs = inputs_of(checkpoint)
    with torch.no_grad():
        for share in (1.0, 0.75, 0.5, 0.3):
            sizes = shares(checkpoint, share)
            close(loaded.at(sizes)(inputs), network.at(sizes)(inputs))
        close(own_output(loaded.checkpoint, inputs), network(inputs))  # the weights kept are those of the full size
    assert network.save(tmp_path / "b.inn") == digest
    assert (tmp_path / "a.inn").read_bytes() == (tmp_path / "b.inn").read_bytes()
    loaded.train()
    close(loaded(inputs), network.train()(inputs))


def test_a_network_that_was_never_trained_loads_and_needs_measuring(residual: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(residual, tmp_path / "n.inn")
    network = IntegralNetwork.load(tmp_path / "n.inn", smallest=0.2)
    with pytest.raises(StatisticsMissingError, match=r"call measure_\(\), or train\(\)"):
        network.eval()(inputs_of(residual))
    network.measure_()
    close(network(inputs_of(residual)), own_output(residual, inputs_of(residual)))


def test_without_normalization_nothing_needs_measuring(residual: Checkpoint, tmp_path: Path) -> None:
    """Also where the checkpoint keeps no samples."""
    network = shaken_(IntegralNetwork(replace(residual, calibration={}), normalize=False)).eval()
    inputs, sizes = inputs_of(residual), shares(residual, 0.5)
    before = network.at(sizes)(inputs)
    network.save(tmp_path / "n.inn")
    loaded = IntegralNetwork(load_checkpoint(tmp_path / "n.inn"))
    assert loaded.parts.nodes == ()
    close(loaded.at(sizes)(inputs), before)
    loaded.eval()
    close(loaded.at(sizes)(inputs), before)


def test_without_samples_a_normalized_network_says_what_is_missing(residual: Checkpoint) -> None:
    with pytest.raises(StatisticsMissingError, match="'small' keeps no calibration samples"):
        IntegralNetwork(replace(residual, calibration={}))


def test_evaluation_after_a_step_needs_measuring(residual: Checkpoint) -> None:
    network = IntegralNetwork(residual)
    network.measure_()
    for optimizer in (
        torch.optim.SGD(network.parameters(), lr=1e-3),
        torch.optim.AdamW(network.parameters(), lr=1e-3, foreach=True),
        torch.optim.Adam(network.parameters(), lr=1e-3, fused=True),
    ):
        network.train()
        network(inputs_of(residual)).sum().backward()
        optimizer.step()
        network(inputs_of(residual))  # still trains
        network.eval()
        with pytest.raises(StatisticsMissingError, match="the parameters changed"):
            network(inputs_of(residual))
        network.measure_()
        network(inputs_of(residual))


def test_another_sampler_does_not_use_the_statistics_of_the_first(measured: IntegralNetwork) -> None:
    trained = measured.to_checkpoint()
    network = with_kernels(trained).eval()
    with pytest.raises(StatisticsMissingError):
        network(inputs_of(trained))


def test_bfloat16_autocast_trains(residual: Checkpoint) -> None:
    network = IntegralNetwork(residual)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    inputs, labels = inputs_of(residual), torch.arange(48) % 5
    losses = []
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            output = network.at(shares(residual, 0.6))(inputs)
        loss = F.cross_entropy(output.float(), labels)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert losses[-1] < 0.8 * losses[0]


def test_two_half_batches_have_the_gradient_of_one(checkpoint: Checkpoint) -> None:
    network = shaken_(IntegralNetwork(checkpoint, normalize=False)).train()
    inputs = inputs_of(checkpoint)
    view = network.at(shares(checkpoint, 0.6))

    def gradients(parts: tuple[Tensor, ...]) -> list[Tensor]:
        network.zero_grad()
        for part in parts:
            (view(part).square().sum() / len(inputs)).backward()
        return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]

    for one, two in zip(gradients((inputs,)), gradients(inputs.chunk(2)), strict=True):
        close(two, one)


def test_evaluating_in_inference_mode_does_not_spoil_training(checkpoint: Checkpoint) -> None:
    network = with_kernels(checkpoint)
    network.measure_()
    sizes = shares(checkpoint, 0.4)
    with torch.inference_mode():
        network.eval()(inputs_of(checkpoint), sizes=sizes)
    network.train()(inputs_of(checkpoint), sizes=sizes).sum().backward()


def test_sizes_are_drawn_alike_whatever_the_global_seeds_are(residual: Checkpoint) -> None:
    one, two = IntegralNetwork(residual, seed=3), IntegralNetwork(residual, seed=3)
    torch.manual_seed(1)
    np.random.seed(1)  # the point is that it has no effect
    drawn = [one.sample_sizes() for _ in range(8)]
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert [two.sample_sizes() for _ in range(8)] == drawn
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len({tuple(sizes.values()) for sizes in drawn}) > 4
    assert [IntegralNetwork(residual, seed=4).sample_sizes() for _ in range(8)] != drawn


def test_draws_go_on_after_a_state_dict_is_loaded(residual: Checkpoint) -> None:
    network = IntegralNetwork(residual)
    for _ in range(5):
        network.sample_sizes()
    resumed = IntegralNetwork(residual)
    resumed.load_state_dict(network.state_dict())
    assert resumed.sandwich(smaller=4) == network.sandwich(smaller=4)
