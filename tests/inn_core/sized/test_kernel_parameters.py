"""The parameters of an integral network: names, sampling, folding, and whether they were written."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inn_core.graph.axis import Axis, fixed
from inn_core.integral.nested_sampler import NestedSampler
from inn_core.sized.batch_norm import Moments, NormalizedNode
from inn_core.sized.kernel_parameters import KernelParameters
from tests.inn_core.sized_networks import small_mlp

A: Axis = (("a",),)


def made(names: tuple[str, ...] = ("w", "b")) -> KernelParameters:
    """One normalized layer of 4 channels, by initializer names of its weight and bias."""
    weight, bias = names
    return KernelParameters(
        {weight: torch.arange(12.0).reshape(4, 3), bias: torch.ones(4)},
        {weight: torch.full((4,), 2.0)},
        {weight: torch.full((4,), 3.0)},
        nodes=(NormalizedNode(0, "y", weight, bias, 0),),
        axes={weight: (A, fixed(3)), bias: (A,)},
        integrated={weight: 1},
    )


class FirstChannels:
    """A sampler that keeps the first channels and records what it was asked for."""

    def __init__(self) -> None:
        self.integrated: list[int | None] = []

    def sized(
        self, tensor: Tensor, axes: tuple[Axis, ...], sizes: dict[str, int], *, integrated: int | None = None
    ) -> Tensor:
        self.integrated.append(integrated)
        return tensor[: sizes["a"]] if axes[0] == A else tensor


def test_the_bias_of_a_normalized_node_is_no_parameter() -> None:
    parts = made()
    assert sum(parameter.numel() for parameter in parts.parameters()) == 12 + 4 + 4
    sampler = FirstChannels()
    sampled = parts.sampled(sampler, {"a": 2})
    assert torch.equal(sampled.weights["b"], torch.zeros(2))
    assert sampled.weights["w"].shape == (2, 3)
    assert sampler.integrated == [1, None, None]  # the kernel, then scale and shift


def test_folding_gives_scale_over_deviation_and_the_rest_of_the_shift() -> None:
    parts = made()
    sampled = parts.sampled(FirstChannels(), {"a": 4})
    moments = {"w": Moments(torch.tensor([1.0, 2, 3, 4]), torch.full((4,), 4.0 - 1e-5))}
    folded = parts.folded(sampled, moments)
    torch.testing.assert_close(folded["w"], torch.arange(12.0).reshape(4, 3))  # 2 over a deviation of 2
    torch.testing.assert_close(folded["b"], torch.tensor([2.0, 1, 0, -1]))


@pytest.mark.parametrize("names", [("layer.0.weight", "layer/0/weight"), ("keys", "values"), ("half", "training")])
def test_any_names_are_possible(names: tuple[str, str]) -> None:
    """With dots, equal without them, or those of methods of modules."""
    parts = made(names)
    assert torch.equal(parts.kernel(names[0]).detach(), torch.arange(12.0).reshape(4, 3))
    both = KernelParameters(
        {names[0]: torch.zeros(4), names[1]: torch.ones(4)}, {}, {}, nodes=(), axes={}, integrated={}
    )
    assert [float(both.kernel(name).detach()[0]) for name in names] == [0.0, 1.0]
    twin = KernelParameters({name: torch.full((4,), 9.0) for name in names}, {}, {}, nodes=(), axes={}, integrated={})
    twin.load_state_dict(both.state_dict())
    assert [float(twin.kernel(name).detach()[0]) for name in names] == [0.0, 1.0]


def test_constants_are_not_trained() -> None:
    parts = KernelParameters(
        {"w": torch.ones(3), "limit": torch.tensor(6.0)}, {}, {}, nodes=(), axes={}, integrated={}, constants={"limit"}
    )
    assert {name: parameter.requires_grad for name, parameter in parts.named_parameters()} == {
        "kernels.w": True,
        "kernels.limit": False,
    }


def test_sampling_stays_precise_under_autocast() -> None:
    checkpoint = small_mlp()
    weights = {name: torch.from_numpy(np.array(array)) for name, array in checkpoint.weights.items()}
    parts = KernelParameters(weights, {}, {}, nodes=(), axes=checkpoint.structure.weights, integrated={})
    with torch.autocast("cpu", torch.bfloat16):
        sampled = parts.sampled(NestedSampler(checkpoint), checkpoint.structure.full_sizes())
    for name, weight in weights.items():
        assert torch.equal(sampled.weights[name], weight)


def fused(parts: nn.Module) -> None:
    for parameter in parts.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(parts.parameters(), lr=1e-3, fused=True).step()


def through_data(parts: nn.Module) -> None:
    for parameter in parts.parameters():
        parameter.data.mul_(0.999)


def replaced(parts: nn.Module) -> None:
    torch.nn.utils.vector_to_parameters(
        torch.nn.utils.parameters_to_vector(parts.parameters()).detach() * 1.01, parts.parameters()
    )


def one_number(parts: KernelParameters) -> None:
    with torch.no_grad():
        parts.kernel("w")[2, 2] += 1


def loaded(parts: nn.Module) -> None:
    parts.load_state_dict({name: tensor.clone() for name, tensor in parts.state_dict().items()}, assign=True)


@pytest.mark.parametrize("write", [fused, through_data, replaced, one_number, loaded])
def test_every_way_of_writing_parameters_is_noticed(write: Callable[[KernelParameters], None]) -> None:
    parts = made()
    before = parts.written()
    assert parts.is_unchanged(before)
    write(parts)
    assert not parts.is_unchanged(before)
    assert parts.is_unchanged(parts.written())


def large(shape: tuple[int, ...], dtype: torch.dtype) -> KernelParameters:
    """One parameter of random numbers."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return KernelParameters({"w": values}, {}, {}, nodes=(), axes={}, integrated={})


def scaled_but_the_first(values: Tensor) -> None:
    values[1:] *= 5


def last_bit(values: Tensor) -> None:
    """The smallest change there is, in the last number."""
    flat = values.view(-1)
    flat[-1] = torch.nextafter(flat[-1].float(), torch.tensor(9.0)) if values.dtype == torch.float32 else 9.0


def exchanged_rows(values: Tensor) -> None:
    values.copy_(values.flip(0))


def exchanged_neighbours(values: Tensor) -> None:
    flat = values.view(-1)
    flat[3], flat[5] = float(flat[5]), float(flat[3])


def negated(values: Tensor) -> None:
    values[1:] *= -1


@pytest.mark.parametrize("write", [scaled_but_the_first, last_bit, exchanged_rows, exchanged_neighbours, negated])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 3), (70, 33, 3, 3), (5001,), (4, 1024)])
def test_writes_past_the_version_counter_are_noticed_wherever_they_are(
    write: Callable[[Tensor], None], dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """`.data` counts nothing, so the whole tensor has to be compared."""
    parts = large(shape, dtype)
    before = parts.written()
    version = parts.kernel("w")._version
    write(parts.kernel("w").data)
    assert parts.kernel("w")._version == version
    assert not parts.is_unchanged(before)


def test_parameters_that_are_views_or_lie_in_another_order_are_compared_whole() -> None:
    """Odd offsets into one vector, and images with channels last."""
    parts = large((7, 5, 3, 3), torch.float32)
    flat = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    for view in (flat[1:316].view(7, 5, 3, 3), flat[:315].view(7, 5, 3, 3).to(memory_format=torch.channels_last)):
        parts.kernel("w").data = view
        before = parts.written()
        assert parts.is_unchanged(before)
        parts.kernel("w").data[6, 4, 2, 2] += 1
        assert not parts.is_unchanged(before)


def test_comparing_takes_milliseconds_for_a_million_parameters() -> None:
    """About one on an idle processor; the best of many rounds has to be within ten on a busy one."""
    parts = large((1000, 4000), torch.float32)
    before = parts.written()
    times = []
    for _ in range(30):
        started = time.thread_time()
        assert parts.is_unchanged(before)
        times.append(time.thread_time() - started)
    assert min(times) < 4 * 10e-3


def test_reading_and_moving_is_no_writing() -> None:
    parts = made()
    before = parts.written()
    parts.sampled(FirstChannels(), {"a": 3}).weights["w"].sum().backward()
    parts.double()
    assert parts.is_unchanged(before)
