"""The integral network: any size equals what PyTorch, numpy and ONNX Runtime make of it, inside any training loop."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # the name every PyTorch reader knows
from torch import Tensor, nn

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import BudgetUnreachableError, InvalidBudgetError, InvalidInputError, StatisticsMissingError
from inn_core.graph.axis import kept_indices
from inn_core.integral.kernel_sampler import KernelSampler
from inn_core.integral.selection import selections
from inn_core.sized.batch_norm import EPSILON
from inn_core.training.integral_network import IntegralNetwork
from tests.inn_core.graph.tiny import model_of, node
from tests.inn_core.sized_networks import (
    KINDS,
    close,
    in_precision,
    inputs_of,
    own_output,
    shaken_,
    shares,
    small_mlp,
    small_residual,
    smoothed,
    transposed_convnet,
    with_kernels,
)
from tests.inn_core.trained_networks import gaussian, integral, mlp, smooth_images

RIEMANN = 5e-4  # midpoint rule of 32 points: second derivative of about 10, over 24 x 32^2


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


@pytest.mark.parametrize("sampler", ["nested", "kernel"])
def test_the_full_network_is_the_checkpoint(checkpoint: Checkpoint, sampler: str) -> None:
    """With kernels: at native size any smoothing order leaves the function as it is."""
    network = IntegralNetwork(checkpoint) if sampler == "nested" else with_kernels(checkpoint)
    network.measure_()
    network.eval()
    inputs = inputs_of(checkpoint)
    with torch.no_grad():
        close(network(inputs), own_output(checkpoint, inputs))
        network.train()
        close(network(inputs), own_output(checkpoint, inputs))  # the calibration samples are one batch


@pytest.mark.parametrize("normalize", [True, False])
def test_a_nested_size_is_the_network_sliced_by_hand(normalize: bool) -> None:
    """A plain torch module with BatchNorm in training mode, its parameters sliced by numpy."""
    checkpoint = small_residual()
    network = shaken_(IntegralNetwork(checkpoint, normalize=normalize)).train()
    inputs = inputs_of(checkpoint)
    sizes = dict(zip(network.full_sizes, (5, 3), strict=True))
    stem, inner = (np.sort(checkpoint.orders[name][:size]) for name, size in sizes.items())
    rows = {"w0": (stem,), "w1": (inner, stem), "w2": (stem, inner), "w3": (stem,)}

    def part(name: str) -> Tensor:
        array = network.parts.kernel(name).detach().numpy()
        return torch.from_numpy(array[np.ix_(*rows[name])])

    def behind(value: Tensor, name: str, kept: np.ndarray) -> Tensor:
        if not normalize:
            return value + network.parts.kernel("b" + name[1:]).detach()[kept][:, None, None]
        norm = nn.BatchNorm2d(len(kept)).train()
        norm.load_state_dict(
            {
                "weight": network.parts.scale(name).detach()[kept],
                "bias": network.parts.shift(name).detach()[kept],
            }
            | {key: value for key, value in norm.state_dict().items() if "running" in key or "num" in key}
        )
        result: Tensor = norm(value)
        return result

    with torch.no_grad():
        first = F.relu(behind(F.conv2d(inputs, part("w0"), stride=2, padding=1), "w0", stem))
        second = F.relu(behind(F.conv2d(first, part("w1"), padding=1), "w1", inner))
        third = F.relu(behind(F.conv2d(second, part("w2"), padding=1), "w2", stem) + first)
        expected = third.mean((2, 3)) @ part("w3") + network.parts.kernel("b3")
        close(network(inputs, sizes=sizes), expected)


def test_at_a_knot_a_size_is_a_batch_norm_network_with_the_measured_statistics(checkpoint: Checkpoint) -> None:
    """Running statistics of the calibration set as one batch are what training mode uses on it."""
    network = shaken_(IntegralNetwork(checkpoint))
    statistics = network.measure_()
    inputs = inputs_of(checkpoint)
    for knots in statistics.paths.values():
        for knot in (knots[1], knots[-1]):
            with torch.no_grad():
                expected = network.train()(inputs, sizes=knot.sizes)
                close(network.eval()(inputs, sizes=knot.sizes), expected, 2e-5)  # variances are kept as logarithms


def test_kernel_sampling_above_the_native_size_runs(checkpoint: Checkpoint) -> None:
    network = with_kernels(checkpoint)
    network.measure_()
    sizes = {name: 2 * size for name, size in network.full_sizes.items()}
    inputs = inputs_of(checkpoint)
    with torch.no_grad():
        for training in (True, False):
            network.train(training)
            found = network(inputs, sizes=sizes)
            assert found.shape == network(inputs).shape
            assert bool(found.isfinite().all())
    with pytest.raises(InvalidInputError, match=r"cannot have size \d+; 1 to \d+ are possible"):
        network.at({name: 5 * size for name, size in network.full_sizes.items()})


@pytest.mark.parametrize("factor", [0.5, 2, 3.25])
def test_smooth_kernels_sampled_at_another_rate_compute_nearly_the_same(factor: float) -> None:
    """Two layers whose kernels are closed forms: y = integral of f(t) g(t) dt, a number that no size changes."""
    model = model_of(
        [node("Gemm", "x w1 b1", "h"), node("Tanh", "h", "a"), node("Gemm", "a w2 b2", "y")],
        weights={"w1": (3, 64), "b1": (64,), "w2": (64, 2), "b2": (2,)},
        inputs={"x": (3,)},
    )
    checkpoint = integral(model, {"x": gaussian(32, 3)})
    random = np.random.default_rng(0)
    order = random.permutation(64)
    middle = (np.arange(64) + 0.5) / 64
    ranked = {
        "w1": np.stack([np.sin(2 * middle), middle**2, np.cos(3 * middle)]),
        "b1": 0.5 - middle,
        "w2": np.stack([np.exp(-middle), 1 + middle], 1) / 64,
    }
    weights = dict(checkpoint.weights)
    for name, array in ranked.items():
        placed = np.empty_like(array)
        placed[(slice(None), order) if name == "w1" else order] = array
        weights[name] = placed.astype(np.float32)
    smooth = replace(checkpoint, weights=weights)
    (group,) = (group.name for group in smooth.structure.groups)
    network = IntegralNetwork(smooth, sampler=KernelSampler(smooth, {group: order}), normalize=False)
    inputs = inputs_of(smooth)
    with torch.no_grad():
        close(network(inputs, sizes={group: int(64 * factor)}), network(inputs), RIEMANN)
        fine = (np.arange(100_000) + 0.5) / 100_000
        hidden = inputs.double().numpy() @ [np.sin(2 * fine), fine**2, np.cos(3 * fine)] + 0.5 - fine
        exact = np.tanh(hidden) @ np.stack([np.exp(-fine), 1 + fine], 1) / len(fine) + weights["b2"]
        close(network(inputs, sizes={group: int(64 * factor)}), torch.from_numpy(exact).float(), RIEMANN)


@pytest.mark.parametrize("sampler", ["nested", "kernel"])
def test_gradients_through_a_size_equal_finite_differences(checkpoint: Checkpoint, sampler: str) -> None:
    network = (IntegralNetwork if sampler == "nested" else with_kernels)(checkpoint)
    network = shaken_(network).double().train()
    inputs = inputs_of(checkpoint)[:7].double()
    view = network.at(shares(checkpoint, 0.6))
    random = torch.Generator().manual_seed(0)
    target = torch.randn(view(inputs).shape, generator=random, dtype=torch.float64)

    def loss() -> Tensor:
        return (view(inputs).tanh() * target).sum()

    torch.autograd.backward(loss())
    step = 1e-6
    for name, parameter in network.named_parameters():
        direction = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        assert parameter.grad is not None, name
        slope = float((parameter.grad * direction).sum())
        ends = []
        with torch.no_grad():
            for sign in (1, -2, 1):
                parameter.add_(direction, alpha=sign * step)
                ends.append(float(loss()))
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-5), name


def test_gradients_in_evaluation_mode_reach_every_parameter(measured: IntegralNetwork) -> None:
    network = copy.deepcopy(measured)
    torch.autograd.backward(network(inputs_of(network.checkpoint)[:4], sizes=shares(network.checkpoint, 0.5)).sum())
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_gradients_of_a_nested_size_are_zero_outside_of_its_channels(checkpoint: Checkpoint) -> None:
    network = shaken_(IntegralNetwork(checkpoint)).train()
    sizes = shares(checkpoint, 0.5)
    network(inputs_of(checkpoint), sizes=sizes).square().sum().backward()
    kept = selections(checkpoint.orders, sizes)
    full = checkpoint.structure.full_sizes()
    biases = {node.bias for node in network.parts.nodes}
    for name, axes in checkpoint.structure.weights.items():
        if name in biases:
            continue
        gradient = network.parts.kernel(name).grad
        assert gradient is not None
        inside = torch.zeros_like(gradient, dtype=torch.bool)
        inside[np.ix_(*(kept_indices(axis, full, kept) for axis in axes))] = True
        assert bool((gradient[~inside] == 0).all())
        assert bool((gradient[inside] != 0).any())


def test_resize_plan_and_at_agree(measured: IntegralNetwork) -> None:
    network = copy.deepcopy(measured)
    params = sum(array.size for array in network.checkpoint.weights.values())
    plan = network.plan(params=params // 2)
    assert plan.params <= params // 2
    assert network.resize(params=params // 2) == plan.sizes
    inputs = inputs_of(network.checkpoint)
    assert torch.equal(network(inputs), network.at(plan)(inputs))
    assert network.plan(macs=plan.macs).macs <= plan.macs
    assert network.plan(size_bytes=10**9).full_size
    assert network.resize(sizes=network.smallest_sizes) == network.smallest_sizes
    assert sum(weight.numel() for weight in network.at(plan).weights().values()) == plan.params


def test_wrong_sizes_and_budgets_are_named(measured: IntegralNetwork) -> None:
    network = copy.deepcopy(measured)
    (first, second), sizes = tuple(network.full_sizes), dict(network.full_sizes)
    with pytest.raises(InvalidInputError, match=f"group '{second}' is missing or unknown"):
        network.at({first: 3})
    with pytest.raises(InvalidInputError, match="group 'ghost' is missing or unknown"):
        network.resize(sizes={**sizes, "ghost": 1})
    for size in (0, -1, 9):
        with pytest.raises(InvalidInputError, match=f"'{first}' cannot have size {size}; 1 to 8 are possible"):
            network(inputs_of(network.checkpoint), sizes={**sizes, first: size})
    with pytest.raises(InvalidBudgetError, match="exactly one of params, macs and size_bytes; 2 were given"):
        network.plan(params=10, macs=10)
    with pytest.raises(InvalidBudgetError, match="0 were given"):
        network.resize()
    with pytest.raises(InvalidBudgetError, match="sizes or a budget"):
        network.resize(params=300, sizes=sizes)
    with pytest.raises(BudgetUnreachableError):
        network.plan(params=1)
    with pytest.raises(InvalidInputError, match="2 inputs were given; the graph reads x"):
        network(inputs_of(network.checkpoint), inputs_of(network.checkpoint))
    assert network.sizes == network.full_sizes  # none of them took effect


def test_samples_to_measure_with_are_checked(residual: Checkpoint) -> None:
    network = IntegralNetwork(residual)
    inputs = inputs_of(residual)
    with pytest.raises(InvalidInputError, match="2 inputs were given; the graph reads x"):
        network.measure_(inputs, inputs)
    with pytest.raises(StatisticsMissingError, match="no samples"):
        network.measure_(inputs[:0])


def test_groups_may_be_named_in_any_order() -> None:
    """Two groups of one size each, exchanged: programs of templates that change with the size must not mix them up."""
    checkpoint = KINDS["concat"]()
    network = IntegralNetwork(checkpoint)
    inputs = {"x": inputs_of(checkpoint)}
    sizes = {"a": 3, "b": 4, "c": 5}
    turned = {"c": 5, "b": 4, "a": 3}
    other = {"c": 3, "b": 4, "a": 5 - 1}
    expected = network.moments(sizes, [inputs])
    network.moments(other, [inputs])
    found = network.moments(turned, [inputs])
    for name, moments in expected.items():
        assert torch.equal(found[name].mean, moments.mean)


def test_moving_and_rounding_the_parameters_keeps_the_statistics(measured: IntegralNetwork) -> None:
    network = copy.deepcopy(measured)
    for dtype in (torch.float64, torch.float16, torch.float32):
        network.to(dtype)
        assert network.statistics is not None
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data[1:] *= 5
    with pytest.raises(StatisticsMissingError, match="the parameters changed"):
        network(inputs_of(network.checkpoint))


def test_parameters_may_have_the_names_of_methods() -> None:
    """Initializers are named by whoever exported the network."""
    names = {"w1": "keys", "b1": "values", "w2": "a.b", "b2": "a/b", "w3": "half", "b3": "training"}
    model = mlp()
    for graph_node in model.graph.node:
        graph_node.input[:] = [names.get(name, name) for name in graph_node.input]
    for initializer in model.graph.initializer:
        initializer.name = names.get(initializer.name, initializer.name)
    checkpoint = integral(model, {"x": gaussian(48, 6)})
    network = IntegralNetwork(checkpoint)
    network.measure_()
    close(network.eval()(inputs_of(checkpoint)), own_output(checkpoint, inputs_of(checkpoint)))
    IntegralNetwork(checkpoint).load_state_dict(network.state_dict())


def test_constants_that_no_size_changes_are_not_trained() -> None:
    """The bounds of a clip and the scales of a resize are float initializers, too."""
    model = model_of(
        [
            node("Conv", "x w0 b0", "c0", pads=[1, 1, 1, 1]),
            node("Clip", "c0 low high", "r0"),
            node("Resize", "r0 - scales", "u0", mode="nearest"),
            node("Conv", "u0 w1 b1", "y", pads=[1, 1, 1, 1]),
        ],
        weights={"w0": (6, 3, 3, 3), "b0": (6,), "w1": (3, 6, 3, 3), "b1": (3,)},
        floats={"low": 0.0, "high": 6.0, "scales": [1.0, 1.0, 2.0, 2.0]},
        inputs={"x": (3, 8, 8)},
    )
    checkpoint = integral(model, {"x": smooth_images(16)})
    network = IntegralNetwork(checkpoint).train()
    network(inputs_of(checkpoint)).square().sum().backward()
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert not any(name.endswith((".low", ".high", ".scales")) for name in trained)
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_networks_in_other_precisions_are_integral_networks_as_well(dtype: type) -> None:
    typed = in_precision(small_mlp(), dtype)
    network = IntegralNetwork(typed)
    network.train()(inputs_of(typed)).sum().backward()
    network.measure_()
    network.eval()
    tolerance = 2e-2 if dtype == np.float16 else 1e-6
    close(network(inputs_of(typed)), own_output(typed, inputs_of(typed)), tolerance)
    trained = network.to_checkpoint()
    for name, weight in network.at(shares(typed, 0.5)).weights().items():
        assert trained.weights[name].dtype == dtype
        assert weight.numpy(force=True).dtype == dtype


def test_a_transposed_convolution_is_normalized_along_its_outputs() -> None:
    checkpoint = integral(transposed_convnet(), {"x": smooth_images(16)})
    network = IntegralNetwork(checkpoint)
    entry = next(entry for entry in network.parts.nodes if entry.weight == "w1")
    assert entry.out_axis == 1
    with torch.no_grad():
        hidden = F.relu(F.conv2d(inputs_of(checkpoint), *first_layer(checkpoint), stride=2, padding=1))
        weight = torch.from_numpy(np.array(checkpoint.weights["w1"]))
        variance = F.conv_transpose2d(hidden, weight, stride=2).transpose(0, 1).flatten(1).var(1, correction=0)
    close(network.parts.scale("w1"), (variance + EPSILON).sqrt())


def first_layer(checkpoint: Checkpoint) -> tuple[Tensor, Tensor]:
    weight, bias = (torch.from_numpy(np.array(checkpoint.weights[name])) for name in ("w0", "b0"))
    return weight, bias
