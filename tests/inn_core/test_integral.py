"""The integral network: any size equals what PyTorch, numpy and ONNX Runtime make of it, inside any training loop."""

from __future__ import annotations

import copy
import math
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # the name every PyTorch reader knows
from torch import Tensor, nn

from inn_core.checkpoint import load_checkpoint, save_checkpoint
from inn_core.errors import BudgetUnreachableError, InvalidBudgetError, InvalidInputError, StatisticsMissingError
from inn_core.graph.axis import kept_indices
from inn_core.integral import IntegralNetwork
from inn_core.kernel_sampler import KernelSampler
from inn_core.network import Checkpoint
from inn_core.sampling import selections
from tests.inn_core.graph.tiny import model_of, node
from tests.inn_core.sized import (
    KINDS,
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
from tests.inn_core.trained import gaussian, integral, mlp, smooth_images

CLOSE = 1e-5  # float32 networks a few layers deep
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


def close(found: Tensor, expected: Tensor, tolerance: float = CLOSE) -> None:
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)


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


@pytest.mark.parametrize("normalise", [True, False])
def test_a_nested_size_is_the_network_sliced_by_hand(normalise: bool) -> None:
    """A plain torch module with BatchNorm in training mode, its parameters sliced by numpy."""
    checkpoint = small_residual()
    network = shaken_(IntegralNetwork(checkpoint, normalise=normalise)).train()
    inputs = inputs_of(checkpoint)
    sizes = dict(zip(network.full_sizes, (5, 3), strict=True))
    stem, inner = (np.sort(checkpoint.orders[name][:size]) for name, size in sizes.items())
    rows = {"w0": (stem,), "w1": (inner, stem), "w2": (stem, inner), "w3": (stem,)}

    def part(name: str) -> Tensor:
        array = network.parts.kernel(name).detach().numpy()
        return torch.from_numpy(array[np.ix_(*rows[name])])

    def behind(value: Tensor, name: str, kept: np.ndarray) -> Tensor:
        if not normalise:
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
    network = IntegralNetwork(smooth, sampler=KernelSampler(smooth, {group: order}), normalise=False)
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
    network = with_kernels(residual, normalise=False)
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


def test_without_normalisation_nothing_needs_measuring(residual: Checkpoint, tmp_path: Path) -> None:
    """Also where the checkpoint keeps no samples."""
    network = shaken_(IntegralNetwork(replace(residual, calibration={}), normalise=False)).eval()
    inputs, sizes = inputs_of(residual), shares(residual, 0.5)
    before = network.at(sizes)(inputs)
    network.save(tmp_path / "n.inn")
    loaded = IntegralNetwork(load_checkpoint(tmp_path / "n.inn"))
    assert loaded.parts.nodes == ()
    close(loaded.at(sizes)(inputs), before)
    loaded.eval()
    close(loaded.at(sizes)(inputs), before)


def test_without_samples_a_normalised_network_says_what_is_missing(residual: Checkpoint) -> None:
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
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
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
    network = shaken_(IntegralNetwork(checkpoint, normalise=False)).train()
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
    np.random.seed(1)  # noqa: NPY002  # the point is that it has no effect
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
    assert resumed.sandwich(random=3) == network.sandwich(random=3)


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


def test_statistics_follow_the_network_to_its_device(measured: IntegralNetwork) -> None:
    """The meta device stands for one that is not the CPU: mixing the two is an error there as well."""
    network = copy.deepcopy(measured).to("meta")
    weights = network.discrete_weights(shares(network.checkpoint, 0.5))
    assert {weight.device.type for weight in weights.values()} == {"meta"}


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
    from onnx import TensorProto, helper

    checkpoint = small_mlp()
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    assert kind in (TensorProto.FLOAT16, TensorProto.DOUBLE)
    model = copy.deepcopy(checkpoint.template.model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    typed = replace(
        checkpoint,
        template=replace(
            checkpoint.template,
            model=model,
            weights={name: (shape, kind) for name, (shape, _) in checkpoint.template.weights.items()},
        ),
        weights={name: array.astype(dtype) for name, array in checkpoint.weights.items()},
        calibration={name: array.astype(dtype) for name, array in checkpoint.calibration.items()},
    )
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


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield free.getsockname()[1]


def distributed_rank(rank: int, folder: str) -> None:
    """One of two processes: trains three sizes in a step on its half of the samples."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(rank)  # global seeds differ, as they do in real runs
    checkpoint = small_residual()
    network = IntegralNetwork(checkpoint, normalise=False, seed=5)
    wrapped = nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    half = inputs_of(checkpoint).chunk(2)[rank]
    drawn = []
    for step in range(2):
        optimizer.zero_grad()
        for sizes in (network.full_sizes, *network.sandwich(random=1)):
            drawn.append(tuple(sizes.values()))
            wrapped(half, sizes=sizes).square().mean().backward()
        if step == 0:
            gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
        optimizer.step()
    torch.save({"drawn": drawn, "gradients": gradients, "state": network.state_dict()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_train_the_same_network(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(distributed_rank, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert one["drawn"] == two["drawn"]
    assert len(set(one["drawn"])) > 3
    for name, tensor in one["state"].items():
        assert torch.equal(two["state"][name], tensor), name
    checkpoint = small_residual()
    network = IntegralNetwork(checkpoint, normalise=False, seed=5)
    inputs = inputs_of(checkpoint)
    for sizes in (network.full_sizes, *network.sandwich(random=1)):
        network(inputs, sizes=sizes).square().mean().backward()
    for parameter, *found in zip(network.parameters(), one["gradients"], two["gradients"], strict=True):
        assert parameter.grad is not None
        for gradient in found:
            close(gradient, parameter.grad)


def test_a_transposed_convolution_is_normalised_along_its_outputs() -> None:
    checkpoint = integral(transposed_convnet(), {"x": smooth_images(16)})
    network = IntegralNetwork(checkpoint)
    entry = next(entry for entry in network.parts.nodes if entry.weight == "w1")
    assert entry.out_axis == 1
    assert len(network.parts.scale("w1")) == 8
    assert math.isclose(float(network.parts.scale("w1").detach().min()), 0.0, abs_tol=10)
