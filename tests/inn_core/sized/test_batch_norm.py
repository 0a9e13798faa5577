"""Normalized nodes, their moments and folding, against numpy and PyTorch's own BatchNorm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # the name every PyTorch reader knows
from torch import nn

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.program import Program
from inn_core.sized.batch_norm import (
    EPSILON,
    Moments,
    NormalizedNode,
    fold,
    measure_moments,
    normalize_batch,
    normalized_nodes,
    pooled_moments,
)
from tests.inn_core.graph.tiny import model_of, node
from tests.inn_core.sized_networks import KINDS, transposed_convnet
from tests.inn_core.trained_networks import gaussian, integral, mlp, smooth_images


def nodes_of(checkpoint: Checkpoint) -> tuple[NormalizedNode, ...]:
    weights = {name: torch.from_numpy(np.array(array)) for name, array in checkpoint.weights.items()}
    return normalized_nodes(checkpoint.structure, Program(checkpoint.template.model), weights)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mlp", {"w1": 1, "w2": 1}),  # w3 writes the output
        ("residual", {"w0": 0, "w1": 0, "w2": 0}),
        ("transposed", {"w0": 0, "w1": 1}),
        ("concat", {"right.weight": 0, "mix.weight": 0}),  # the left convolution has no bias
        ("depthwise", {"stem.weight": 0, "depth.weight": 0}),
    ],
)
def test_nodes_with_a_bias_and_resizable_outputs_are_normalized(kind: str, expected: dict[str, int]) -> None:
    assert {entry.weight: entry.out_axis for entry in nodes_of(KINDS[kind]())} == expected


def test_shared_weights_and_biases_are_left_alone() -> None:
    """Normalizing the two readers of a weight would need two of it."""
    model = model_of(
        [
            node("Gemm", "x w1 b1", "h1"),
            node("Relu", "h1", "a1"),
            node("Gemm", "a1 w2 b2", "h2"),
            node("Relu", "h2", "a2"),
            node("Gemm", "a2 w2 b2", "h3"),
            node("Gemm", "h3 w3 b3", "y"),
        ],
        weights={"w1": (6, 8), "b1": (8,), "w2": (8, 8), "b2": (8,), "w3": (8, 5), "b3": (5,)},
        inputs={"x": (6,)},
    )
    assert {entry.weight for entry in nodes_of(integral(model, {"x": gaussian(8, 6)}))} == {"w1"}


def test_a_gemm_with_transposed_weights_is_normalized_along_its_rows() -> None:
    model = mlp()
    model.graph.node[0].attribute.append(node("Gemm", "a b c", "y", transB=1).attribute[0])
    rows = np.ascontiguousarray(np.arange(72, dtype=np.float32).reshape(12, 6) / 72)
    model.graph.initializer[0].dims[:] = rows.shape
    model.graph.initializer[0].raw_data = rows.tobytes()
    found = nodes_of(integral(model, {"x": gaussian(8, 6)}))
    assert {entry.weight: entry.out_axis for entry in found} == {"w1": 0, "w2": 1}


@pytest.mark.parametrize("shape", [(10, 4), (6, 4, 5), (6, 4, 3, 5)])
def test_moments_pooled_over_chunks_are_those_of_numpy(shape: tuple[int, ...]) -> None:
    value = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32) + np.float32(100)
    chunks = [torch.from_numpy(part) for part in np.array_split(value, (1, 4))]
    found = pooled_moments(chunks)
    axes = (0, *range(2, len(shape)))
    exact = value.astype(np.float64)
    np.testing.assert_allclose(found.mean.numpy(), exact.mean(axes), rtol=1e-6)
    np.testing.assert_allclose(found.variance.numpy(), exact.var(axes), rtol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_of_large_images_are_exact_to_the_last_bits(layout: torch.memory_format) -> None:
    """Hundreds of thousands of values a channel, whose deviation is a hundredth of their mean."""
    value = torch.randn(24, 5, 120, 130, generator=torch.Generator().manual_seed(0)) * 2 + 200
    found = pooled_moments([part.contiguous(memory_format=layout) for part in value.split(7)])
    exact = value.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.mean, exact.mean(1).float(), rtol=2e-7, atol=0)
    torch.testing.assert_close(found.variance, exact.var(1, correction=0).float(), rtol=5e-7, atol=0)


def test_half_precision_does_not_overflow_its_squares() -> None:
    value = torch.tensor([[-300.0, 1.0], [300.0, 3.0]], dtype=torch.float16)
    found = pooled_moments([value])
    torch.testing.assert_close(found.mean, torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(found.variance, torch.tensor([90000.0, 1.0]))


def test_the_variance_of_a_constant_is_zero() -> None:
    found = pooled_moments([torch.full((5, 3), 7.1), torch.full((2, 3), 7.1)])
    assert torch.equal(found.variance, torch.zeros(3))
    torch.testing.assert_close(found.deviation(), torch.full((3,), EPSILON**0.5))


def test_a_batch_is_normalized_as_batch_norm_does() -> None:
    norm = nn.BatchNorm2d(4).train()
    value = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
    scale, shift = torch.linspace(-1, 2, 4), torch.linspace(3, 1, 4)
    with torch.no_grad():
        norm.weight.copy_(scale)
        norm.bias.copy_(shift)
        torch.testing.assert_close(normalize_batch(value, scale, shift), norm(value))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_normalized_in_at_least_single_precision(dtype: torch.dtype) -> None:
    value = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    found = normalize_batch(value, torch.ones(4, dtype=torch.float16), torch.zeros(4, dtype=torch.float16))
    assert found.dtype == dtype
    exact = value.double()
    exact = (exact - exact.mean(0)) / (exact.var(0, correction=0) + EPSILON).sqrt()
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_moments_behind_normalization_are_those_of_a_batch_norm_network() -> None:
    """In chunks, each node behind the normalization of the nodes before it with the moments of all chunks."""
    checkpoint = integral(transposed_convnet(), {"x": smooth_images(20)})
    nodes = nodes_of(checkpoint)
    inputs = torch.from_numpy(checkpoint.calibration["x"])
    weights = {name: torch.from_numpy(np.array(array)) for name, array in checkpoint.weights.items()}
    for entry in nodes:
        weights[entry.bias] = torch.zeros_like(weights[entry.bias])
    random = torch.Generator().manual_seed(1)
    scales = {entry.weight: torch.rand(len(weights[entry.bias]), generator=random) + 0.5 for entry in nodes}
    shifts = {entry.weight: torch.randn(len(weights[entry.bias]), generator=random) for entry in nodes}
    chunks = [{"x": part} for part in inputs.split(7)]
    found = measure_moments(Program(checkpoint.template.model), nodes, weights, scales, shifts, chunks)
    first = F.conv2d(inputs, weights["w0"], stride=2, padding=1)
    hidden = F.relu(F.batch_norm(first, None, None, scales["w0"], shifts["w0"], training=True))
    second = F.conv_transpose2d(hidden, weights["w1"], stride=2)
    for name, value in (("w0", first), ("w1", second)):
        rows = value.transpose(0, 1).flatten(1).double().numpy()
        np.testing.assert_allclose(found[name].mean.numpy(), rows.mean(1), rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[name].variance.numpy(), rows.var(1), rtol=1e-4)


def entry(operator_axis: int) -> NormalizedNode:
    return NormalizedNode(0, "y", "w", "b", operator_axis)


def test_folding_is_exact() -> None:
    """In double precision, for a convolution, a transposed one, a depthwise one and a product."""
    random = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    scale, shift = draw(4), draw(4)
    moments = Moments(draw(4), draw(4).square())
    images, rows = draw(2, 3, 6, 6), draw(7, 3)
    layers = [
        (0, draw(4, 3, 3, 3), lambda w, b: F.conv2d(images, w, b)),
        (1, draw(3, 4, 2, 2), lambda w, b: F.conv_transpose2d(images, w, b, stride=2)),
        (0, draw(4, 1, 3, 3), lambda w, b: F.conv2d(images[:, [0, 1, 2, 0]], w, b, groups=4)),
        (1, draw(3, 4), lambda w, b: rows @ w + (0 if b is None else b)),
        (0, draw(4, 3), lambda w, b: F.linear(rows, w, b)),
    ]
    for axis, weight, run in layers:
        folded, bias = fold(entry(axis), weight, moments, scale, shift)
        norm = F.batch_norm(run(weight, None), moments.mean, moments.variance, scale, shift, eps=EPSILON)
        torch.testing.assert_close(run(folded, bias), norm, rtol=1e-12, atol=1e-12)


def test_moments_follow_the_weight_to_its_device() -> None:
    """The meta device stands for one that is not the CPU: mixing the two is an error there as well."""
    on_device = torch.ones(4, 3, device="meta")
    vector = torch.ones(4, device="meta")
    weight, bias = fold(entry(0), on_device, Moments(torch.zeros(4), torch.ones(4)), vector, vector)
    assert (weight.device.type, bias.device.type) == ("meta", "meta")


def test_folding_keeps_the_precision_of_the_weight() -> None:
    moments = Moments(torch.zeros(4), torch.ones(4))
    weight, bias = fold(entry(0), torch.ones(4, 3, dtype=torch.float16), moments, torch.ones(4), torch.ones(4))
    assert (weight.dtype, bias.dtype) == (torch.float16, torch.float16)
