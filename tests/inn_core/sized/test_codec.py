"""The way from a checkpoint to parameters and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from inn_core.checkpoint.checkpoint import AnchorNetwork, Checkpoint
from inn_core.checkpoint.part_arrays import part_arrays
from inn_core.errors import StatisticsMissingError
from inn_core.integral.channel_permutation import smoothing_orders
from inn_core.integral.kernel import KernelSampling
from inn_core.integral.kernel_sampler import KernelSampler
from inn_core.integral.nested_sampler import NestedSampler
from inn_core.integral.quadrature import Quadrature
from inn_core.sized.batch_norm import EPSILON
from inn_core.sized.codec import is_trained, kernel_sampler, read_parameters, sampler_of, statistics_chunks
from inn_core.training.integral_network import IntegralNetwork
from tests.inn_core.sized_networks import (
    inputs_of,
    own_output,
    shaken_,
    shares,
    small_residual,
    smooth_orders,
    smoothed,
    with_kernels,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def residual() -> Checkpoint:
    return smoothed(small_residual())


def test_an_imported_network_starts_with_its_own_moments(residual: Checkpoint) -> None:
    """Scale is the deviation of a pre-activation, shift its mean with the bias; kernels are the weights."""
    parts, statistics = read_parameters(residual, normalize=True)
    assert statistics is None
    weights = {name: torch.from_numpy(np.array(array)) for name, array in residual.weights.items()}
    value = torch.nn.functional.conv2d(inputs_of(residual), weights["w0"], weights["b0"], stride=2, padding=1)
    rows = value.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(
        parts.scale("w0").detach(), (rows.var(1, correction=0) + EPSILON).sqrt().float(), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(parts.shift("w0").detach(), rows.mean(1).float(), rtol=0, atol=1e-6)
    assert torch.equal(parts.kernel("w0").detach(), weights["w0"])


@pytest.mark.parametrize("kernels", [False, True])
def test_parameters_survive_the_way_through_a_checkpoint(residual: Checkpoint, kernels: bool) -> None:
    network = shaken_(with_kernels(residual) if kernels else IntegralNetwork(residual))
    trained = network.to_checkpoint()
    assert is_trained(trained)
    assert not is_trained(residual)
    found = IntegralNetwork(trained)
    for name, parameter in network.parts.named_parameters():
        torch.testing.assert_close(
            found.parts.get_parameter(name).detach(), parameter.detach(), rtol=2e-6, atol=1e-8, msg=name
        )
    twice = found.to_checkpoint()
    arrays = part_arrays(twice)
    for name, array in part_arrays(trained).items():
        np.testing.assert_array_equal(arrays[name], array)


def test_a_channel_whose_scale_is_zero_stays_finite(residual: Checkpoint) -> None:
    """Folding it loses its kernel; the function of the network does not change by that."""
    network = IntegralNetwork(residual)
    with torch.no_grad():
        network.parts.scale("w1")[2] = 0.0
        network.parts.scale("w1")[3] *= -1
    network.measure_()
    network.eval()
    found = IntegralNetwork(network.to_checkpoint()).eval()
    inputs = inputs_of(residual)
    for share in (1.0, 0.6):
        sizes = shares(residual, share)
        torch.testing.assert_close(found(inputs, sizes=sizes), network(inputs, sizes=sizes), rtol=0, atol=1e-5)


def test_what_belongs_to_the_old_weights_goes_and_the_rest_stays(residual: Checkpoint) -> None:
    anchors = (AnchorNetwork(residual.structure.full_sizes(), {}, {}),)
    trained = IntegralNetwork(replace(residual, anchors=anchors)).to_checkpoint()
    assert not trained.anchors
    assert not any(name.startswith("instant/") for name in part_arrays(trained))
    assert smooth_orders(trained).keys() == smooth_orders(residual).keys()
    assert trained.qualities == ["refined", "instant", "trained", "uniform"]
    for part in ("orders", "paths", "curves", "calibration", "structure", "provenance"):
        assert getattr(trained, part) is getattr(residual, part)
    assert list(trained.weights) == list(residual.weights)
    assert all(trained.weights[name].dtype == array.dtype for name, array in residual.weights.items())


def test_smoothing_orders_are_those_of_the_trained_weights_unless_kernels_were_trained_in_them(
    residual: Checkpoint,
) -> None:
    nested = shaken_(IntegralNetwork(residual), amount=0.5).to_checkpoint()
    for name, order in smoothing_orders(nested).items():
        np.testing.assert_array_equal(nested.channel_permutations[name], order)
    kernels = shaken_(with_kernels(residual), amount=0.5).to_checkpoint()
    for name, order in residual.channel_permutations.items():
        np.testing.assert_array_equal(kernels.channel_permutations[name], order)


def test_training_again_replaces_the_trained_sizes(residual: Checkpoint) -> None:
    first = shaken_(with_kernels(residual)).to_checkpoint()
    network = shaken_(IntegralNetwork(first, sampler=NestedSampler(first)))
    second = network.to_checkpoint()
    assert first.trained is not None
    assert second.trained is not None
    assert second.trained.sampling == {"kind": "nested"}
    inputs = inputs_of(residual)
    torch.testing.assert_close(own_output(second, inputs), network.eval()(inputs).detach(), rtol=0, atol=1e-5)
    assert not any(np.array_equal(second.trained.scales[name], array) for name, array in first.trained.scales.items())


def test_the_sampler_is_the_one_it_was_trained_with(residual: Checkpoint) -> None:
    assert isinstance(sampler_of(residual), NestedSampler)
    sampling = KernelSampling(quadrature=Quadrature.GAUSS_LEGENDRE)
    sampler = KernelSampler(residual, smooth_orders(residual), sampling=sampling)
    group = residual.structure.groups[1].name
    edges = torch.tensor([0.0, 0.25, 0.3, 1.0], dtype=torch.float64)
    sampler.tuned = {group: [edges]}
    trained = IntegralNetwork(residual, sampler=sampler).to_checkpoint()
    found = sampler_of(trained)
    assert isinstance(found, KernelSampler)
    assert found.sampling == sampling
    assert {name: [list(each) for each in tuned] for name, tuned in found.tuned.items()} == {group: [edges.tolist()]}
    for name, order in smooth_orders(residual).items():
        assert found.orders[name].tolist() == order.tolist()


def test_smoothing_orders_that_are_missing_are_found_again(residual: Checkpoint) -> None:
    found = kernel_sampler(replace(residual, channel_permutations={}))
    for group in residual.structure.groups:
        assert sorted(found.orders[group.name].tolist()) == list(range(group.size))


def test_statistics_are_measured_on_the_given_samples_or_those_of_the_checkpoint(residual: Checkpoint) -> None:
    own = statistics_chunks(residual, (), CPU)
    assert torch.equal(torch.cat([chunk["x"] for chunk in own]), inputs_of(residual))
    given = statistics_chunks(residual, (inputs_of(residual)[:5],), CPU)
    assert sum(len(chunk["x"]) for chunk in given) == 5
    with pytest.raises(StatisticsMissingError, match="pass samples"):
        statistics_chunks(replace(residual, calibration={}), (), CPU)


def test_more_samples_than_fit_memory_are_thinned_evenly(residual: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    from inn_core.sized import codec as trained

    monkeypatch.setattr(trained, "affordable_samples", lambda *_: 4)
    chunks = statistics_chunks(residual, (inputs_of(residual),), CPU)
    found = torch.cat([chunk["x"] for chunk in chunks])
    assert torch.equal(found, inputs_of(residual)[[0, 15, 31, 47]])
